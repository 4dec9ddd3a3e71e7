//! The members of tars, honest and hostile.

use super::tar_of;
use crate::data::archive::walk;

/// Names and contents, or the problem.
fn members(tar: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut found = Vec::new();
    let file = tar.to_vec();
    walk(&file, 0..tar.len() as u64, |member| {
        let bytes = tar[member.bytes.start as usize..member.bytes.end as usize].to_vec();
        found.push((member.name.to_owned(), bytes));
        Ok(())
    })?;
    Ok(found)
}

fn problem(tar: &[u8]) -> String {
    let message = members(tar).expect_err("it is hostile");
    assert_eq!(message.lines().count(), 1, "{message:?}");
    message
}

/// A tar of one entry whose header `change` has made something of, with a right checksum.
fn tar_with(change: impl Fn(&mut tar::Header)) -> Vec<u8> {
    let mut tar = tar_of(&[("a.jpg", b"12345")]);
    let mut header = tar::Header::from_byte_slice(&tar[..512]).clone();
    change(&mut header);
    header.set_cksum();
    tar[..512].copy_from_slice(header.as_bytes());
    tar
}

/// A pax header with `records` before the member `a.jpg` of five bytes.
fn tar_with_pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions(records.iter().copied()).expect("a valid header");
    let mut header = tar::Header::new_ustar();
    header.set_size(5);
    builder.append_data(&mut header, "a.jpg", &b"12345"[..]).expect("a valid member");
    builder.into_inner().expect("it is in memory")
}

#[test]
fn members_of_every_ordinary_kind_are_found_with_their_bytes() {
    let long = format!("{}/b.jpg", "long".repeat(60));
    let block = [7; 512];
    let files: [(&str, &[u8]); 5] = [
        ("./x/a.jpg", b"1"),
        (&long, b"22"),
        ("empty", b""),
        ("block", &block),
        ("é 猫.jpg", b"3"),
    ];
    let found = members(&tar_of(&files)).expect("a good tar");
    let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x/a.jpg", &long, "empty", "block", "é 猫.jpg"]);
    assert!(found.iter().zip(files).all(|((_, bytes), (_, expected))| bytes == expected));

    let pax = tar_with_pax(&[("mtime", b"1.5"), ("path", b"other/name.jpg"), ("size", b"3")]);
    assert_eq!(members(&pax).expect("a good tar"), [("other/name.jpg".into(), b"123".to_vec())]);

    let folder = tar_with(|header| {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
    });
    let folder = [&folder[..512], &tar_of(&[(".hidden", b"x"), ("b", b"y")])].concat();
    assert_eq!(members(&folder).expect("a good tar"), [("b".into(), b"y".to_vec())]);
}

#[test]
fn a_tar_cut_anywhere_is_an_error_that_says_so() {
    let tar = tar_of(&[("a.jpg", &[1; 700]), (&"n".repeat(150), &[2; 10])]);
    let end_mark = tar.len() - 1024;
    for len in 0..end_mark + 512 {
        let message = problem(&tar[..len]);
        assert!(message.contains("cut off"), "{len}: {message}");
    }
    assert_eq!(members(&tar[..end_mark + 512]).expect("one zero block is enough").len(), 2);
}

#[test]
fn names_that_leave_the_archive_are_refused() {
    for (name, expected) in [
        ("/etc/a.jpg", "absolute path"),
        ("../a.jpg", "leads upwards"),
        ("a/../../b.jpg", "leads upwards"),
        ("a/..", "leads upwards"),
        ("", "empty name"),
    ] {
        let tar = tar_with(|header| {
            let field = &mut header.as_old_mut().name;
            field.fill(0);
            field[..name.len()].copy_from_slice(name.as_bytes());
        });
        let message = problem(&tar);
        assert!(message.contains(expected) && message.contains("byte 0"), "{name}: {message}");
        if !name.is_empty() {
            let message = problem(&tar_with_pax(&[("path", name.as_bytes())]));
            assert!(message.contains(expected), "{name}: {message}");
        }
    }
    let message = problem(&tar_with_pax(&[("path", b"/evil\x1b[2J\nname")]));
    assert!(message.contains("malformed pax"), "{message}");
    let message = problem(&tar_with_pax(&[("path", b"/evil\x1b[2J")]));
    assert!(message.contains(r"/evil\u{1b}[2J"), "{message:?} is fit for a terminal");
}

#[test]
fn only_plain_files_are_accepted() {
    use tar::EntryType;
    for (kind, expected) in [
        (EntryType::Link, "hard link"),
        (EntryType::Symlink, "symbolic link"),
        (EntryType::Char, "device"),
        (EntryType::Block, "device"),
        (EntryType::Fifo, "device"),
        (EntryType::GNUSparse, "sparse"),
        (EntryType::new(b'Q'), "unknown type"),
    ] {
        let message = problem(&tar_with(|header| header.set_entry_type(kind)));
        assert!(message.contains(expected) && message.contains("a.jpg"), "{message}");
    }
    let message = problem(&tar_with_pax(&[("GNU.sparse.major", b"1")]));
    assert!(message.contains("sparse"), "{message}");
}

#[test]
fn lying_sizes_are_errors_before_anything_is_allocated() {
    for size in [6 * 512, 1 << 33, u64::MAX / 2, u64::MAX - 100, u64::MAX] {
        let message = problem(&tar_with(|header| header.set_size(size)));
        assert!(message.contains(&format!("claims {size} bytes")), "{size}: {message}");
        let message = problem(&tar_with_pax(&[("size", size.to_string().as_bytes())]));
        assert!(message.contains(&format!("claims {size} bytes")), "{size}: {message}");
        for kind in [tar::EntryType::GNULongName, tar::EntryType::XHeader] {
            let message = problem(&tar_with(|header| {
                header.set_size(size);
                header.set_entry_type(kind);
            }));
            assert!(message.contains(&format!("{size} bytes")), "{size}: {message}");
        }
    }
    let no_number = tar_with(|header| header.as_old_mut().size = *b"12345zzzzzz\0");
    assert!(problem(&no_number).contains("not a number"));
    let pax = tar_with_pax(&[("size", b"-5")]);
    assert!(problem(&pax).contains("malformed pax"));
}

#[test]
fn what_is_no_tar_is_named() {
    let mut damaged = tar_of(&[("a", &[0; 600]), ("b", b"x")]);
    damaged[1536] ^= 1;
    let pad = |start: &[u8]| [start, &[1; 1024]].concat();
    for (bytes, expected) in [
        (pad(&[0x1f, 0x8b]), "gzip"),
        (pad(b"PK\x03\x04"), "zip"),
        (pad(b"\xfd7zXZ"), "xz"),
        (pad(&[0x28, 0xb5, 0x2f, 0xfd]), "zstd"),
        (pad(b"<!DOCTYPE html>"), "web page"),
        (pad(b"hello"), "not a tar"),
        (damaged, "byte 1536: no tar header"),
    ] {
        let message = problem(&bytes);
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
    }
}
