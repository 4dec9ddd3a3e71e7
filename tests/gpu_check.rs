//! `scripts/gpu-check`, rehearsed without a GPU: what it reports, and that a failure is one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs the script's rehearsal with this program, and returns it with the report it wrote.
fn rehearse(binary: &Path) -> (Output, String) {
    let out = tempfile::tempdir().expect("temporary folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/gpu-check");
    let output = Command::new(script)
        .args(["--device", "cpu", "--binary"])
        .arg(binary)
        .arg("--out")
        .arg(out.path())
        .output()
        .expect("python3 is there, as for scripts/get-libtorch");
    let results = fs::read_to_string(out.path().join("results.json")).unwrap_or_default();
    serde_json::from_str::<serde_json::Value>(&results).expect("results.json is JSON");
    (output, fs::read_to_string(out.path().join("report.md")).expect("a report"))
}

#[test]
fn the_rehearsal_checks_layers_and_modes_and_times_steps() {
    let (output, report) = rehearse(Path::new(env!("CARGO_BIN_EXE_alexnet-mgpu")));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    for row in [
        "kernels, layers, optimizers against the CPU",
        "collectives",
        "verify, 2 ranks on one device",
        "verify, 4 ranks on one device",
    ] {
        let line = report.lines().find(|line| line.contains(row)).expect("a row for each check");
        assert!(line.ends_with("| pass |"), "{line}");
    }
    assert!(report.contains("a rehearsal without a GPU"), "nobody takes it for a GPU's");
    assert!(report.contains("step, alexnet-cifar, batch 4, fp32 | ours "), "{report}");
}

#[test]
fn a_program_that_fails_its_checks_fails_the_script_and_is_in_the_report() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let broken = folder.path().join("broken");
    fs::write(&broken, "#!/bin/sh\nexit 1\n").expect("writable");
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).expect("own file");
    let (output, report) = rehearse(&broken);
    assert_eq!(output.status.code(), Some(1));
    assert!(report.lines().filter(|line| line.ends_with("| FAIL |")).count() >= 3, "{report}");
}
