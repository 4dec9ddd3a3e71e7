//! ILSVRC2012 in every form that people keep it in: the same images, labels and order in each.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use super::{folder, images, open_error, tar_of};
use crate::data::{Split, open, open_both};

/// Sorted ids, of which the devkit's numbers are another order.
const CLASSES: [&str; 3] = ["n01440764", "n01443537", "n02119789"];
/// The devkit's (ILSVRC id, WordNet id).
const IDS: [(u8, &str); 4] =
    [(1, "n02119789"), (2, "n01440764"), (3, "n01443537"), (4, "n09999999")];
/// The ground truth of four validation images.
const TRUTH: [u8; 4] = [2, 1, 3, 1];
const VAL_CLASSES: [usize; 4] = [0, 2, 1, 2];

fn train_files() -> Vec<(String, String, Vec<u8>)> {
    let file = |class: usize, image: usize| {
        let name = format!("{}_{image}.JPEG", CLASSES[class]);
        (CLASSES[class].to_owned(), name, vec![class as u8; 300 * (image + 1)])
    };
    [(0, 2), (0, 10), (1, 1), (2, 5), (2, 4)].map(|(class, image)| file(class, image)).to_vec()
}

fn val_file(number: usize) -> (String, Vec<u8>) {
    (format!("ILSVRC2012_val_{number:08}.JPEG"), vec![40 + number as u8; 100 * number])
}

/// Numbers 3, 1, 4, 2: a tar is in no particular order.
fn val_files() -> Vec<(String, Vec<u8>)> {
    [3, 1, 4, 2].map(val_file).to_vec()
}

fn write(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a new folder");
    fs::write(path, bytes).expect("a new file");
}

fn write_train_folders(root: &Path) {
    for (class, name, bytes) in train_files() {
        write(root, &format!("train/{class}/{name}"), &bytes);
    }
}

/// (name, tar) of each class, the last class first.
fn class_tars() -> Vec<(String, Vec<u8>)> {
    let tar = |class: &&str| {
        let files = train_files();
        let of_class = files.iter().filter(|file| file.0 == *class);
        let members: Vec<_> =
            of_class.map(|(_, name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        (format!("{class}.tar"), tar_of(&members))
    };
    CLASSES.iter().rev().map(tar).collect()
}

fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect()
}

fn truth_text() -> String {
    TRUTH.iter().map(|id| format!("{id}\n")).collect()
}

/// One element of a MATLAB 5 file.
fn element(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// An array of a MATLAB 5 file.
fn array(class: u8, name: &[u8], content: &[u8]) -> Vec<u8> {
    let dimensions = [1_i32.to_le_bytes(), 1_i32.to_le_bytes()].concat();
    let flags = element(6, &[class, 0, 0, 0, 0, 0, 0, 0]);
    let parts = [flags, element(5, &dimensions), element(1, name), content.to_vec()];
    element(14, &parts.concat())
}

/// `meta.mat` as the devkit has it: a compressed struct array, after another variable.
pub(super) fn meta_mat() -> Vec<u8> {
    let mut names = Vec::new();
    for name in ["ILSVRC2012_ID", "WNID", "words"] {
        let mut field = name.as_bytes().to_vec();
        field.resize(16, 0);
        names.extend(field);
    }
    // The length of a name, in the short form.
    let mut content = [[5, 0, 4, 0], [16, 0, 0, 0]].concat();
    content.extend(element(1, &names));
    for (id, wnid) in IDS {
        // A double that is stored as a byte in the short form, and as a whole.
        let number = match id {
            1 => element(9, &f64::from(id).to_le_bytes()),
            _ => [2, 0, 1, 0, id, 0, 0, 0].to_vec(),
        };
        let wide: Vec<u8> = wnid.bytes().flat_map(|byte| [byte, 0]).collect();
        let wnid = if id == 2 { element(4, &wide) } else { element(16, wnid.as_bytes()) };
        content.extend(array(6, b"", &number));
        content.extend(array(4, b"", &wnid));
        content.extend(array(4, b"", &element(16, b"kit fox")));
    }
    let mut file = vec![b' '; 124];
    file.extend([0, 1, b'I', b'M']);
    file.extend(array(6, b"other", &element(9, &[0; 8])));
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&array(2, b"synsets", &content)).expect("it is in memory");
    let compressed = encoder.finish().expect("it is in memory");
    file.extend(15_u32.to_le_bytes());
    file.extend((compressed.len() as u32).to_le_bytes());
    file.extend(compressed);
    file
}

fn devkit() -> Vec<u8> {
    let truth = truth_text();
    let top = "ILSVRC2012_devkit_t12";
    let tar = tar_of(&[
        (&format!("{top}/readme.txt"), b"read me"),
        (&format!("{top}/data/ILSVRC2012_validation_ground_truth.txt"), truth.as_bytes()),
        (&format!("{top}/data/meta.mat"), &meta_mat()),
    ]);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&tar).expect("it is in memory");
    encoder.finish().expect("it is in memory")
}

/// What the folders hold: the form that all others are compared with.
fn folders() -> tempfile::TempDir {
    let root = folder(&[]);
    write_train_folders(root.path());
    for (number, class) in (1..).zip(VAL_CLASSES) {
        let (name, bytes) = val_file(number);
        write(root.path(), &format!("val/{}/{name}", CLASSES[class]), &bytes);
    }
    root
}

fn both(root: &Path) -> [Vec<(String, usize, Vec<u8>)>; 2] {
    let (train, test) = open_both(root).unwrap_or_else(|error| panic!("{error}"));
    [images(&*train), images(&*test)]
}

#[test]
fn every_form_has_the_images_labels_and_order_of_the_folders() {
    let expected = both(folders().path());
    assert_eq!((expected[0].len(), expected[1].len()), (5, 4));
    assert_eq!(expected[1].iter().map(|image| image.1).collect::<Vec<_>>(), [0, 1, 2, 2]);
    let outer = tar_of(&borrowed(&class_tars()));
    let val = tar_of(&borrowed(&val_files()));

    let tars = folder(&[
        ("ILSVRC2012_img_train.tar", &outer),
        ("ILSVRC2012_img_val.tar", &val),
        ("ILSVRC2012_devkit_t12.tar.gz", &devkit()),
    ]);
    assert_eq!(both(tars.path()), expected, "tars");
    assert_eq!(both(&tars.path().join("ILSVRC2012_img_train.tar")), expected, "a tar's path");
    let test = open(tars.path(), Split::Test).expect("good tars");
    assert!(test.name(0).ends_with("ILSVRC2012_img_val.tar: ILSVRC2012_val_00000001.JPEG"));

    let unpacked_once = folder(&[("ILSVRC2012_img_val.tar", &val)]);
    class_tars().iter().for_each(|(name, tar)| {
        write(unpacked_once.path(), &format!("train/{name}"), tar);
    });
    let data = "ILSVRC2012_devkit_t12/data";
    write(unpacked_once.path(), &format!("{data}/meta.mat"), &meta_mat());
    let truth = format!("{data}/ILSVRC2012_validation_ground_truth.txt");
    write(unpacked_once.path(), &truth, truth_text().as_bytes());
    assert_eq!(both(unpacked_once.path()), expected, "class tars in a folder");
}

#[test]
fn a_flat_val_takes_its_labels_from_each_form_of_them() {
    let expected = both(folders().path());
    let table: String = IDS.iter().map(|(id, wnid)| format!("{wnid} {id} a_name\n")).collect();
    let labels = VAL_CLASSES.map(|class| CLASSES[class]);
    let synsets = labels.join("\n");
    let solution: String = [3, 1, 2, 4]
        .map(|number| format!("ILSVRC2012_val_{number:08},{} 1 2 3 4\n", labels[number - 1]))
        .concat();
    let solution = format!("ImageId,PredictionString\n{solution}");
    let truth = truth_text();
    type Form<'a> = &'a [(&'a str, &'a [u8])];
    let forms: [Form; 4] = [
        &[("ILSVRC2012_devkit_t12.tar.gz", &devkit())],
        &[
            ("val/ILSVRC2012_validation_ground_truth.txt", truth.as_bytes()),
            ("map_clsloc.txt", table.as_bytes()),
        ],
        &[("LOC_val_solution.csv", solution.as_bytes())],
        &[("imagenet_2012_validation_synset_labels.txt", synsets.as_bytes())],
    ];
    for form in forms {
        let root = folder(form);
        write_train_folders(root.path());
        for (name, bytes) in val_files() {
            write(root.path(), &format!("val/{name}"), &bytes);
        }
        assert_eq!(both(root.path()), expected, "{}", form[0].0);
    }
}

#[test]
fn the_validation_tar_is_taken_before_a_flat_test_without_labels() {
    let expected = both(folders().path());
    let val = tar_of(&borrowed(&val_files()));
    let root = folder(&[
        ("test/ILSVRC2012_test_00000001.JPEG", b"x"),
        ("ILSVRC2012_img_val.tar", &val),
        ("ILSVRC2012_devkit_t12.tar.gz", &devkit()),
    ]);
    write_train_folders(root.path());
    assert_eq!(both(root.path()), expected);
}

#[test]
fn kaggles_folders_are_found_from_their_top() {
    let root = folder(&[("LOC_val_solution.csv", b"I,P\nILSVRC2012_val_00000001,n01440764 1 2")]);
    let inside = root.path().join("ILSVRC/Data/CLS-LOC");
    write_train_folders(&inside);
    let (name, bytes) = val_file(1);
    write(&inside, &format!("val/{name}"), &bytes);
    let [train, test] = both(root.path());
    assert_eq!((train.len(), test.len(), test[0].0.as_str()), (5, 1, "n01440764"));
}

#[test]
fn missing_or_damaged_labels_of_val_are_errors_with_a_way_out() {
    let val = tar_of(&borrowed(&val_files()));
    let outer = tar_of(&borrowed(&class_tars()));
    let truth = "ILSVRC2012_validation_ground_truth.txt";
    let mut cut_devkit = devkit();
    cut_devkit.truncate(200);
    let mut damaged = meta_mat();
    damaged.truncate(300);
    type Case<'a> = (&'a [(&'a str, &'a [u8])], &'a str);
    let cases: [Case; 9] = [
        (&[], "put ILSVRC2012_devkit_t12.tar.gz"),
        (&[(truth, b"1\n2\n3\n1\n")], "meta.mat"),
        (&[(truth, b"1\n2\n3\n1\n"), ("meta.mat", b"MATLAB")], "not a MATLAB 5 file"),
        (&[(truth, b"1\n2\n3\n1\n"), ("meta.mat", &damaged)], "meta.mat is damaged"),
        (&[(truth, b"1\ntwo\n"), ("meta.mat", &meta_mat())], "line 2 is not an ILSVRC id"),
        (&[(truth, b"1\n2\n"), ("meta.mat", &meta_mat())], "gives it no class"),
        (&[(truth, b"1\n2\n3\n4\n"), ("meta.mat", &meta_mat())], "gives it no class"),
        (&[("ILSVRC2012_devkit_t12.tar.gz", &cut_devkit)], "cannot decompress"),
        (&[("LOC_val_solution.csv", b"a,b\nnonsense\n")], "line 2 is not IMAGE,CLASS"),
    ];
    for (files, expected) in cases {
        let root = folder(files);
        write(root.path(), "ILSVRC2012_img_train.tar", &outer);
        write(root.path(), "ILSVRC2012_img_val.tar", &val);
        let message = open_error(root.path(), Split::Test);
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
        assert!(message.contains(&root.path().display().to_string()), "{message:?} names the file");
    }
    let root = folder(&[("val/ILSVRC2012_val_00000001.JPEG", b"x"), ("val/cat.jpg", b"x")]);
    write_train_folders(root.path());
    write(root.path(), "ILSVRC2012_devkit_t12.tar.gz", &devkit());
    let message = open_error(root.path(), Split::Test);
    assert!(message.contains("cat.jpg: has no class folder"), "{message}");
}

#[test]
fn training_tars_that_are_not_are_errors_that_say_where() {
    let outer = tar_of(&borrowed(&class_tars()));
    let plain = tar_of(&[("a.JPEG", b"x")]);
    let one = tar_of(&[("n01440764.tar", &tar_of(&[("a.JPEG", b"x")]))]);
    let empty_class = tar_of(&[("n1.tar", &tar_of(&[])), ("n2.tar", &tar_of(&[("a.JPEG", b"x")]))]);
    let twice = tar_of(&[("n1.tar", &plain), ("a/n1.tar", &plain)]);
    let mut inner = class_tars();
    inner[1].1.truncate(1024);
    let cut_class = tar_of(&borrowed(&inner));
    for (tar, expected) in [
        (&plain, "holds a.JPEG, but"),
        (&one, "one class only (n01440764)"),
        (&tar_of(&[]), "holds no class tars"),
        (&empty_class, "n1.tar: has no images"),
        (&twice, "the class n1 twice"),
        (&cut_class, "n01443537.tar: byte 0: the member n01443537_1.JPEG claims"),
        (&outer[..2000].to_vec(), "cut off"),
    ] {
        let root = folder(&[("ILSVRC2012_img_train.tar", tar)]);
        let message = open_error(root.path(), Split::Train);
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
        assert!(message.contains("ILSVRC2012_img_train.tar"), "{message:?} names the file");
    }
}
