//! Image sets as people have them, and the message for each way to have them wrong.

use std::path::Path;

use super::{folder, jpeg, open_error, png};
use crate::data::{Content, Split, open};

const X: &[u8] = b"any bytes: opening does not decode";

#[test]
fn labels_follow_the_sorted_classes_of_train_in_both_splits() {
    let root = folder(&[
        ("train/zebra/1.jpg", X),
        ("train/ape/2.PNG", X),
        ("train/ape/1.JPEG", X),
        ("train/ape/notes.txt", X),
        ("train/ape/.hidden.jpg", X),
        ("train/.cache/1.jpg", X),
        ("val/zebra/9.jpg", X),
    ]);
    let train = open(root.path(), Split::Train).expect("a good folder");
    assert_eq!(train.classes(), ["ape", "zebra"]);
    let names: Vec<_> = (0..train.len()).map(|i| train.name(i)).collect();
    let ends = ["train/ape/1.JPEG", "train/ape/2.PNG", "train/zebra/1.jpg"];
    assert!(names.iter().zip(ends).all(|(name, end)| name.ends_with(end)), "{names:?}");
    assert_eq!((0..3).map(|i| train.label(i)).collect::<Vec<_>>(), [0, 0, 1]);
    let test = open(root.path(), Split::Test).expect("a good folder");
    assert_eq!((test.len(), test.label(0)), (1, 1));
    assert_eq!(test.classes(), train.classes());
}

#[test]
fn a_folder_named_test_serves_as_well_as_val_and_names_may_be_in_any_script() {
    let root =
        folder(&[("train/猫/слон 1.jpg", X), ("train/chien été/é.jpg", X), ("test/猫/a b.jpg", X)]);
    let test = open(root.path(), Split::Test).expect("a good folder");
    assert_eq!(test.classes(), ["chien été", "猫"]);
    assert_eq!((test.len(), test.label(0)), (1, 1));
    let mut bytes = Vec::new();
    assert_eq!(test.read(0, &mut bytes).expect("a readable file"), Content::Encoded);
    assert_eq!(bytes, X);
}

#[test]
fn every_wrong_folder_has_its_own_message() {
    type Case<'a> = (&'a [(&'a str, &'a [u8])], Split, &'a str);
    let cases: [Case; 9] = [
        (&[], Split::Train, "the folder is empty"),
        (&[("a.jpg", X), ("b.jpg", X)], Split::Train, "has images directly in it (a.jpg, ...)"),
        (
            &[("cats/a.jpg", X), ("dogs/b.jpg", X)],
            Split::Train,
            "no train/ folder (found cats, dogs)",
        ),
        (&[("train/a.jpg", X)], Split::Train, "has images directly in it"),
        (&[("train/readme.txt", X)], Split::Train, "has no class folders"),
        (&[("train/cats/a.jpg", X)], Split::Train, "has one class only (cats)"),
        (&[("train/a/1.jpg", X), ("train/b/1.txt", X)], Split::Train, "train/b: has no images"),
        (&[("train/a/1.jpg", X), ("train/b/1.jpg", X)], Split::Test, "has neither val/ nor test/"),
        (
            &[("train/a/1.jpg", X), ("train/b/1.jpg", X), ("val/c/1.jpg", X)],
            Split::Test,
            "val/c: is not a class of",
        ),
    ];
    for (files, split, expected) in cases {
        let root = folder(files);
        let message = open_error(root.path(), split);
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
        assert!(message.contains(&root.path().display().to_string()), "{message:?} names the path");
        assert_eq!(message.lines().count(), 1, "{message:?}");
    }
    let root = folder(&[("file", X)]);
    assert!(open_error(&root.path().join("file"), Split::Train).contains("is a file"));
    assert!(open_error(Path::new("/nowhere/at all"), Split::Train).contains("no such folder"));
    let empty_test = folder(&[("train/a/1.jpg", X), ("train/b/1.jpg", X), ("val/a/notes.txt", X)]);
    assert!(open_error(empty_test.path(), Split::Test).contains("val: has no images"));
}

#[test]
fn a_png_named_jpg_is_decoded_by_its_content() {
    let picture = image::RgbImage::from_pixel(8, 8, image::Rgb([1, 2, 3]));
    let root = folder(&[("a.jpg", &png(&picture.into())), ("b.png", &jpeg(8, 8, 0))]);
    let geometry = crate::data::Geometry { resize: 0, pad: 0, crop: 8 };
    for file in ["a.jpg", "b.png"] {
        let views = crate::data::Views::Centre;
        let path = root.path().join(file);
        let loaded = crate::data::load_views(&path, &geometry, &super::NORMALISATION, views);
        assert_eq!(loaded.expect("a readable image").len(), 8 * 8 * 3);
    }
}
