//! What classes are called, from the files that people keep with ImageNet.

use super::{folder, images};
use crate::data::{Split, open, open_both};

const X: &[u8] = b"any bytes: opening does not decode";
const WORDS: &[u8] = b"n02 goldfish, Carassius auratus\nn01 tench, Tinca tinca\n";

#[test]
fn names_come_from_each_form_of_the_file_in_the_folder_or_beside_it() {
    let json = br#"{"0": ["n01", "tench"], "1": ["n02", "goldfish"]}"#;
    for (file, bytes, expected) in [
        ("set/imagenet_class_index.json", &json[..], "tench"),
        ("imagenet_class_index.json", json, "tench"),
        ("set/synset_words.txt", WORDS, "tench, Tinca tinca"),
        ("LOC_synset_mapping.txt", WORDS, "tench, Tinca tinca"),
    ] {
        let files =
            [("set/train/n01/1.jpg", X), ("set/train/n02/1.jpg", X), ("set/val/n02/1.jpg", X)];
        let root = folder(&files);
        std::fs::write(root.path().join(file), bytes).expect("a new file");
        let (train, test) = open_both(&root.path().join("set")).expect("a good folder");
        assert_eq!(train.class_names()[0], expected, "{file}");
        assert_eq!(test.class_names(), train.class_names(), "{file}");
        assert_eq!(train.classes(), ["n01", "n02"], "what tells classes apart stays");
    }
}

#[test]
fn classes_without_a_name_and_files_that_cannot_be_used_leave_the_folder_names() {
    for bytes in [
        &b"n01 tench\n"[..],
        b"{\"0\": 3}",
        b"\xff\xfe",
        b"n01\n",
        b"{\"1\": [\"n01\", \"tench\"]}",
        b"",
    ] {
        for file in ["imagenet_class_index.json", "synset_words.txt"] {
            let root = folder(&[("train/n01/1.jpg", X), ("train/n02/1.jpg", X), (file, bytes)]);
            let train = open(root.path(), Split::Train).expect("names are an extra");
            assert_eq!(train.class_names()[1], "n02", "{file}");
            assert_eq!(images(&*train).len(), 2);
        }
    }
}

#[test]
fn a_set_without_names_is_called_by_its_folders() {
    let root = folder(&[("train/cat/1.jpg", X), ("train/dog/1.jpg", X)]);
    let train = open(root.path(), Split::Train).expect("a good folder");
    assert_eq!(train.class_names(), ["cat", "dog"]);
}
