//! Webdataset shards: the forms people have, and what can be wrong in them.

use std::path::Path;

use super::{folder, images, open_error, tar_of};
use crate::data::{Source, Split, open, open_both};

/// A shard of (key, label) with one byte of image each, among other members.
fn shard(samples: &[(&str, &str)]) -> Vec<u8> {
    let names: Vec<[String; 4]> = samples
        .iter()
        .map(|(key, _)| ["jpg", "cls", "json", "seg.png"].map(|ext| format!("{key}.{ext}")))
        .collect();
    let mut members: Vec<(&str, &[u8])> = Vec::new();
    for (names, (key, label)) in names.iter().zip(samples) {
        members.push((&names[1], label.as_bytes()));
        members.push((&names[0], key.as_bytes()));
        members.push((&names[2], b"{}"));
        members.push((&names[3], b"mask"));
    }
    tar_of(&members)
}

/// (class, bytes as text) of every image.
fn contents(source: &dyn Source) -> Vec<(String, String)> {
    let text = |bytes| String::from_utf8(bytes).expect("a test's image is text");
    images(source).into_iter().map(|(class, _, bytes)| (class, text(bytes))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(class, text)| ((*class).into(), (*text).into())).collect()
}

fn train_0() -> Vec<u8> {
    shard(&[("a/x", "1\n"), ("b", "0")])
}

fn train_1() -> Vec<u8> {
    shard(&[("a/y", " 2 ")])
}

fn val() -> Vec<u8> {
    shard(&[("v", "2")])
}

const TRAIN: [(&str, &str); 3] = [("1", "a/x"), ("0", "b"), ("2", "a/y")];

#[test]
fn a_pattern_a_folder_and_folders_of_splits_name_the_same_images() {
    let flat = folder(&[
        ("in-train-000.tar", &train_0()),
        ("in-train-001.tar", &train_1()),
        ("in-val-000.tar", &val()),
        ("index.txt", b"x"),
    ]);
    let split = folder(&[
        ("train/000.tar", &train_0()),
        ("train/001.tar", &train_1()),
        ("val/000.tar", &val()),
    ]);
    for path in [
        flat.path().to_path_buf(),
        flat.path().join("in-train-{000..001}.tar"),
        flat.path().join("in-{train-{000..001},val-000}.tar"),
        split.path().to_path_buf(),
        split.path().join("train"),
        split.path().join("train/{000..001}.tar"),
    ] {
        let (train, test) = open_both(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(contents(&*train), pairs(&TRAIN), "{}", path.display());
        assert_eq!(contents(&*test), pairs(&[("2", "v")]), "{}", path.display());
        assert_eq!(test.classes(), ["0", "1", "2"]);
        let alone = open(&path, Split::Test).expect("good shards");
        assert_eq!(alone.classes(), test.classes());
    }
    let train = open(flat.path(), Split::Train).expect("good shards");
    assert!(train.name(2).ends_with("in-train-001.tar: a/y.jpg"), "{}", train.name(2));
    let unnamed = folder(&[("0.tar", &train_0())]);
    let one = open(&unnamed.path().join("0.tar"), Split::Train).expect("a good shard");
    assert_eq!(contents(&*one), pairs(&TRAIN[..2]));
}

#[test]
fn no_shard_is_of_two_splits_whatever_else_its_name_holds() {
    let [learnt, tested] = [shard(&[("x", "0"), ("y", "1")]), shard(&[("v", "1")])];
    for (train, test) in [
        ("carnival-train-0.tar", "carnival-val-0.tar"),
        ("latest-train-0.tar", "latest-test-0.tar"),
        ("train/val-train-0.tar", "train/val-0.tar"),
    ] {
        let root = folder(&[(train, &learnt), (test, &tested)]);
        let root = root.path().join(Path::new(train).parent().expect("a relative path"));
        let of = |split| contents(&*open(&root, split).expect("good shards"));
        assert_eq!(of(Split::Train), pairs(&[("0", "x"), ("1", "y")]), "{train}");
        assert_eq!(of(Split::Test), pairs(&[("1", "v")]), "{test}");
    }
}

#[test]
fn a_file_of_class_names_says_what_labels_mean() {
    let root = folder(&[
        ("train-0.tar", &train_0()),
        ("train-1.tar", &train_1()),
        ("val-0.tar", &val()),
        ("imagenet_class_index.json", THREE),
    ]);
    let (train, test) = open_both(root.path()).expect("good shards");
    assert_eq!(contents(&*train), pairs(&[("n1", "a/x"), ("n0", "b"), ("n2", "a/y")]));
    assert_eq!(test.class_names(), ["zero", "one", "two"]);
    assert_eq!(test.classes(), ["n0", "n1", "n2"]);
    assert_eq!(train.classes(), test.classes());
    assert_eq!(open(root.path(), Split::Test).expect("good shards").classes(), test.classes());
}

const THREE: &[u8] = br#"{"0": ["n0", "zero"], "2": ["n2", "two"], "1": ["n1", "one"]}"#;

#[test]
fn a_file_of_class_names_that_is_another_sets_makes_no_classes() {
    let two_classes = [train_0(), shard(&[("v", "1")])];
    for list in ["set/imagenet_class_index.json", "imagenet_class_index.json"] {
        let root = folder(&[
            ("set/train-0.tar", &two_classes[0]),
            ("set/val-0.tar", &two_classes[1]),
            (list, THREE),
        ]);
        for path in ["set", "set/train-{0..0}.tar"] {
            let (train, test) = open_both(&root.path().join(path)).expect("good shards");
            assert_eq!(train.classes(), ["0", "1"], "{list}");
            assert_eq!(test.classes(), train.classes(), "{list}");
        }
    }
    let beside = folder(&[
        ("set/train-0.tar", &train_0()),
        ("set/train-1.tar", &train_1()),
        ("imagenet_class_index.json", THREE),
    ]);
    let train = open(&beside.path().join("set"), Split::Train).expect("good shards");
    assert_eq!(train.classes(), ["0", "1", "2"], "a file beside the set may be of another");
}

#[test]
fn more_shards_than_may_be_open_are_read_all_the_same() {
    let root = folder(&[("val-0.tar", &shard(&[("v", "1")]))]);
    for number in 0..300 {
        let (key, label) = (format!("key{number}"), (number % 2).to_string());
        let bytes = shard(&[(&key, &label)]);
        let path = root.path().join(format!("train-{number:03}.tar"));
        std::fs::write(path, bytes).expect("a new file");
    }
    let train = open(&root.path().join("train-{000..299}.tar"), Split::Train).expect("good shards");
    let found = contents(&*train);
    assert_eq!((found.len(), found[299].1.as_str()), (300, "key299"));
    assert!(train.name(299).ends_with("train-299.tar: key299.jpg"));
}

#[test]
fn samples_that_are_not_whole_are_errors_that_name_the_key() {
    let (jpg, cls) = (&b"x"[..], &b"0"[..]);
    type Case<'a> = (&'a [(&'a str, &'a [u8])], &'a str);
    let cases: [Case; 9] = [
        (&[("a.jpg", jpg)], "the sample a has an image, but no .cls"),
        (&[("a.cls", cls)], "the sample a has a .cls, but no image"),
        (&[("a.jpg", jpg), ("b.jpg", jpg), ("a.cls", cls)], "the sample a has an image, but"),
        (&[("a.jpg", jpg), ("a.PNG", jpg), ("a.cls", cls)], "the sample a has two images"),
        (&[("a.cls", cls), ("a.cls", cls)], "the sample a has two labels"),
        (&[("a.jpg", jpg), ("a.cls", b"cat")], "a.cls is not a label"),
        (&[("a.jpg", jpg), ("a.cls", b"-1")], "a.cls is not a label"),
        (&[("a.jpg", jpg), ("a.cls", b"4000000000")], "a.cls is not a label"),
        (&[("a.jpg", jpg), ("a.cls", &[b'1'; 1000])], "a.cls is not a label"),
    ];
    for (members, expected) in cases {
        let root = folder(&[("train-0.tar", &tar_of(members))]);
        let message = open_error(root.path(), Split::Train);
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
        assert!(message.contains("train-0.tar: "), "{message:?} names the shard");
    }
}

#[test]
fn shards_that_are_not_there_or_do_not_fit_are_errors() {
    let root = folder(&[("train-0.tar", &train_0()), ("train-1.tar", &train_1())]);
    let at = |pattern: &str| root.path().join(pattern);
    for (path, split, expected) in [
        (at("train-{0..3}.tar"), Split::Train, "of its 4 shards that is not there is"),
        (at("train-{0..3.tar"), Split::Train, "{ without its }"),
        (at("train-{0..1}.tar"), Split::Test, "no shards with val or test in their name"),
        (root.path().into(), Split::Test, "no shards with val or test in their name"),
        (at("no-{0..1}/x.tar"), Split::Train, "is not there"),
    ] {
        let message = open_error(&path, split);
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
    }
    type Case<'a> = (&'a [(&'a str, &'a [u8])], Split, &'a str);
    let class_0 = shard(&[("a", "0")]);
    let cases: [Case; 6] = [
        (
            &[("000.tar", &train_0()), ("001.tar", &train_1())],
            Split::Train,
            "no shards with train in their name; rename them, or",
        ),
        (&[("train-0.tar", &class_0)], Split::Train, "one class only (0)"),
        (&[("train-0.tar", &tar_of(&[]))], Split::Train, "has no images"),
        (&[("val-0.tar", &class_0)], Split::Train, "no shards with train in their name"),
        (
            &[("train-0.tar", &train_0()), ("val-0.tar", &val())],
            Split::Test,
            "val-0.tar: holds the label 2, but there are only 2 classes",
        ),
        (&[("train-0.tar", &[0x1f, 0x8b, 0])], Split::Train, "cut off"),
    ];
    for (files, split, expected) in cases {
        let root = folder(files);
        let message = open_error(root.path(), split);
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
    }
    assert!(open_error(Path::new("/no{0..1}.tar"), Split::Train).contains("/no0.tar"));
}
