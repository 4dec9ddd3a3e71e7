//! The invariants of the module tree: who may know whom, and where `unsafe` may stand.

use std::fs;
use std::path::{Path, PathBuf};

/// The files that may hold `unsafe` code, each with a safe face.
const FFI: [&str; 14] = [
    "collective/nccl/ffi.rs",
    "data/large_pages.rs",
    "data/packed/map.rs",
    "elements.rs",
    "kernels/cuda/compile.rs",
    "kernels/cuda/gpu.rs",
    "kernels/cuda/machine.rs",
    "kernels/cuda/memory.rs",
    "kernels/cuda/pinned.rs",
    "kernels/shuffle.rs",
    "kernels/stream.rs",
    "torch_ext.rs",
    "torch_ext/cuda.rs",
    "torch_ext/upload.rs",
];

/// What a module must not mention, as it would appear in a path: `crate::config`, `tch::`.
const FORBIDDEN: [(&str, &[&str]); 8] = [
    ("data", &["tch", "crate::net", "crate::collective", "crate::config", "crate::train"]),
    ("net", &["crate::data", "crate::config", "crate::cli", "crate::train"]),
    ("collective", &["crate::net", "crate::params", "crate::data", "crate::config"]),
    ("kernels", &["tch", "crate::net", "crate::params", "crate::data", "crate::config"]),
    ("config", &["tch", "crate::net", "crate::collective", "crate::train"]),
    ("topology.rs", &["tch", "crate::net", "crate::collective", "crate::config", "crate::data"]),
    ("params.rs", &["crate::net", "crate::data", "crate::config", "crate::optim"]),
    (
        "params",
        &["crate::collective", "crate::net", "crate::data", "crate::config", "crate::optim"],
    ),
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file at or under `path`.
fn rust_files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut files: Vec<_> =
        entries.flat_map(|entry| rust_files(&entry.expect("readable").path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    files
}

/// The lines of code, without comments; then a line for each path in the braces of `crate::{…}`.
fn code(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).expect("readable");
    let mut lines: Vec<_> =
        text.lines().map(|line| line.split("//").next().unwrap_or("").to_owned()).collect();
    let whole = lines.join(" ");
    lines.extend(whole.split("crate::{").skip(1).flat_map(in_braces));
    lines
}

/// `crate::a::{b, c}` and `crate::d` of what follows `crate::{`: `a::{b, c}, d};`.
fn in_braces(text: &str) -> Vec<String> {
    let mut paths = vec![String::from("crate::")];
    let mut depth = 0;
    for character in text.chars() {
        match (character, depth) {
            ('}', 0) => break,
            (',', 0) => paths.push("crate::".into()),
            (' ', _) => {}
            _ => {
                depth += i32::from(character == '{') - i32::from(character == '}');
                paths.last_mut().expect("never empty").push(character);
            }
        }
    }
    paths
}

/// Whether `line` names the path `module` (and not `ratchet::` for `tch`).
fn names(line: &str, module: &str) -> bool {
    line.match_indices(module).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + module.len()..].chars().next();
        let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !is_word(before) && !is_word(after) && (module.contains("::") || after == Some(':'))
    })
}

#[test]
fn modules_know_only_what_lies_below_them() {
    for (module, forbidden) in FORBIDDEN {
        let files = rust_files(&source().join(module));
        assert!(!files.is_empty(), "{module} is gone; move its rule");
        for file in files {
            for line in code(&file) {
                let found = forbidden.iter().find(|other| names(&line, other));
                assert!(found.is_none(), "{} must not know {found:?}: {line}", file.display());
            }
        }
    }
}

#[test]
fn unsafe_code_stands_in_named_files_only() {
    for name in FFI {
        assert!(source().join(name).is_file(), "{name} is gone; shorten the list");
    }
    for file in rust_files(&source()) {
        let name = file.strip_prefix(source()).expect("under src").to_string_lossy().into_owned();
        let has_unsafe = code(&file).iter().any(|line| {
            ["unsafe {", "unsafe fn", "unsafe extern", "unsafe impl", "allow(unsafe_code)"]
                .iter()
                .any(|form| line.contains(form))
        });
        assert_eq!(has_unsafe, FFI.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn the_rule_about_names_sees_paths_and_not_words() {
    assert!(names("use tch::Tensor;", "tch"));
    assert!(names("    crate::net::Net", "crate::net"));
    assert!(!names("use crate::network::X;", "crate::net"));
    assert!(!names("let patch: u8 = ratch::x", "tch"));
}

#[test]
fn a_path_in_braces_is_seen() {
    assert_eq!(in_braces("a::{b, c}, d}; use x"), ["crate::a::{b,c}", "crate::d"]);
    let paths = in_braces("config::Config, net}");
    assert!(names(&paths[0], "crate::config") && names(&paths[1], "crate::net"));
}
