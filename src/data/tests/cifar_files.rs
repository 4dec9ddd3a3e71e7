//! CIFAR as its authors publish it: four folders, and what can be wrong in them.

use std::path::Path;

use super::{folder, images, open_error};
use crate::data::cifar::{CIFAR10_BINARY, CIFAR10_PYTHON, CIFAR100_BINARY, CIFAR100_PYTHON};
use crate::data::{Content, Source, Split, open};

/// Planes of i, i + 1 and i + 2.
fn planes(image: usize) -> Vec<u8> {
    (0..3).flat_map(|plane| [(image + plane) as u8; 1024]).collect()
}

/// A binary file whose record `i` has the label `i % 10` after `coarse` other bytes.
pub(super) fn binary(num_records: usize, coarse: &[u8]) -> Vec<u8> {
    (0..num_records).flat_map(|i| [coarse, &[(i % 10) as u8], &planes(i)].concat()).collect()
}

/// The pickle of the same images, as Python 2 writes it.
pub(super) fn pickle(num_records: usize, labels: &str) -> Vec<u8> {
    let mut bytes = b"\x80\x02}q\x01(U".to_vec();
    bytes.extend([labels.len() as u8]);
    bytes.extend(labels.as_bytes());
    bytes.extend(b"]q\x02(");
    (0..num_records).for_each(|i| bytes.extend([b'K', (i % 10) as u8]));
    bytes.extend(
        b"eU\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b",
    );
    bytes.extend(b"\x87R(K\x01M");
    bytes.extend((num_records as u16).to_le_bytes());
    bytes.extend(b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff");
    bytes.extend(b"\xffJ\xff\xff\xff\xffK\x00tb\x89T");
    bytes.extend((num_records as u32 * 3072).to_le_bytes());
    (0..num_records).for_each(|i| bytes.extend(planes(i)));
    bytes.extend(b"tbu.");
    bytes
}

/// A pickle of `{entry: [names...]}`.
fn name_pickle(entry: &str, names: &[String]) -> Vec<u8> {
    let text = |text: &str| [&[b'U', text.len() as u8], text.as_bytes()].concat();
    let mut bytes = [b"\x80\x02}".to_vec(), text(entry), b"](".to_vec()].concat();
    names.iter().for_each(|name| bytes.extend(text(name)));
    bytes.extend(b"es.");
    bytes
}

#[test]
fn planes_become_interleaved_pixels_in_both_forms() {
    let root = folder(&[
        ("a.bin", &binary(12, &[])),
        ("b.bin", &binary(12, &[])),
        ("a", &pickle(12, "labels")),
        ("b", &pickle(12, "labels")),
        ("a100.bin", &binary(12, &[19])),
        ("a100", &pickle(12, "fine_labels")),
    ]);
    let binary = CIFAR10_BINARY.read(root.path(), &["a.bin", "b.bin"], 12).expect("good files");
    assert_eq!((binary.len(), binary.label(11), binary.label(12)), (24, 1, 0));
    assert_eq!((binary.classes()[3].as_str(), binary.class_names()[3].as_str()), ("cat", "cat"));
    assert!(binary.name(11).ends_with("a.bin record 11"));
    assert!(binary.name(13).ends_with("b.bin record 1"));
    let mut bytes = Vec::new();
    let content = binary.read(15, &mut bytes).expect("it is in memory");
    assert_eq!(content, Content::Rgb { width: 32, height: 32 });
    assert_eq!(bytes, [3, 4, 5].repeat(1024));

    let pickled = CIFAR10_PYTHON.read(root.path(), &["a", "b"], 12).expect("good files");
    assert_eq!(images(&pickled), images(&binary));
    assert!(pickled.name(13).ends_with("b record 1"));
    let binary = CIFAR100_BINARY.read(root.path(), &["a100.bin"], 12).expect("a good file");
    let pickled = CIFAR100_PYTHON.read(root.path(), &["a100"], 12).expect("a good file");
    assert_eq!(images(&binary), images(&pickled));
    assert_eq!((binary.label(7), binary.classes()[99].as_str()), (7, "worm"));
}

#[test]
fn every_folder_is_found_directly_and_one_level_down() {
    let (bin10, bin100) = (binary(10_000, &[]), binary(10_000, &[0]));
    let (py10, py100) = (pickle(20, "labels"), pickle(20, "fine_labels"));
    for (dir, file, bytes, num_images, num_classes) in [
        ("cifar-10-batches-bin", "test_batch.bin", &bin10, 10_000, 10),
        ("cifar-10-batches-py", "test_batch", &py10, 20, 10),
        ("cifar-100-binary", "test.bin", &bin100, 10_000, 100),
        ("cifar-100-python", "test", &py100, 20, 100),
    ] {
        let root = folder(&[(&format!("{dir}/{file}"), bytes)]);
        for path in [root.path().to_path_buf(), root.path().join(dir)] {
            let test = open(&path, Split::Test).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((test.len(), test.classes().len()), (num_images, num_classes), "{dir}");
        }
        let message = open_error(root.path(), Split::Train);
        assert!(message.contains("cannot read") && message.contains(dir), "{message}");
    }
    let two =
        folder(&[("cifar-10-batches-py/test_batch", &py10), ("cifar-100-python/test", &py100)]);
    let message = open_error(two.path(), Split::Test);
    assert!(message.contains("cifar-10-batches-py, cifar-100-python"), "{message}");
    assert_eq!(open(&two.path().join("cifar-100-python"), Split::Test).expect("one").len(), 20);
}

#[test]
fn class_names_come_from_the_files_beside_the_images() {
    let names: Vec<String> = (0..10).map(|i| format!("name {i}")).collect();
    let fine: Vec<String> = (0..100).map(|i| format!("fine {i}")).collect();
    let (text, fine_text) = (names.join("\n") + "\n\n", fine.join("\r\n"));
    let py = |labels| pickle(1, labels);
    let last = |root: &Path| open(root, Split::Test).expect("good files").classes().last().cloned();
    for (file, bytes, names_file, names_bytes, expected) in [
        ("test_batch", py("labels"), "batches.meta", name_pickle("label_names", &names), "name 9"),
        ("test_batch", py("labels"), "batches.meta.txt", text.into_bytes(), "name 9"),
        ("test_batch", py("labels"), "batches.meta.txt", b"too\nfew".to_vec(), "truck"),
        ("test_batch", py("labels"), "batches.meta", b"cos\nsystem\n.".to_vec(), "truck"),
        ("test", py("fine_labels"), "meta", name_pickle("fine_label_names", &fine), "fine 99"),
        ("test", py("fine_labels"), "fine_label_names.txt", fine_text.into_bytes(), "fine 99"),
    ] {
        let root = folder(&[(file, &bytes), (names_file, &names_bytes)]);
        assert_eq!(last(root.path()).as_deref(), Some(expected), "{names_file}");
    }
}

#[test]
fn files_of_another_length_or_label_are_errors() {
    let root = folder(&[("data_batch_1.bin", &binary(9_999, &[]))]);
    let message = open_error(root.path(), Split::Train);
    assert!(message.contains("30726927 bytes") && message.contains("30730000"), "{message}");
    assert!(message.contains("data_batch_1.bin: "), "{message}");

    let mut wrong_label = binary(2, &[]);
    wrong_label[3073] = 200;
    let root = folder(&[("a.bin", &wrong_label)]);
    let error = CIFAR10_BINARY.read(root.path(), &["a.bin"], 2).err().expect("a wrong label");
    assert!(error.to_string().contains("record 1 has label 200"), "{error}");

    let good = pickle(3, "labels");
    let mut negative = good.clone();
    let at = negative.windows(2).position(|pair| pair == b"K\x02").expect("the third label");
    negative.splice(at..at + 2, *b"J\xff\xff\xff\xff");
    for (bytes, expected) in [
        (negative, "record 2 has label -1"),
        (good[..5000].to_vec(), "the pickle is cut off"),
        (pickle(3, "fine_labels"), "has no entry \"labels\""),
        (pickle(0, "labels"), "has 0 labels"),
        (b"cposix\nsystem\n(S'true'\ntR.".to_vec(), "asks to run posix.system"),
        (b"<html>".to_vec(), "opcode 0x3c"),
    ] {
        let root = folder(&[("test_batch", &bytes)]);
        let message = open_error(root.path(), Split::Test);
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
        assert!(message.contains("test_batch: "), "{message:?} names the file");
    }
}
