//! CIFAR-10 and CIFAR-100 as their authors publish them: the binary files and the Python pickles.
//!
//! All forms hold 32x32 pixels as three planes (red, green, blue). A split is held in memory that
//! way: 154 MB for training, 31 MB for testing. CIFAR-100's labels are the fine ones.

use std::path::{Path, PathBuf};

use super::class_names::{Classes, read_text};
use super::error::DataError;
use super::files::read_file;
use super::pickle::Pickle;
use super::source::{Content, Source, Split};

const SIDE: u32 = 32;
const PLANE_BYTES: usize = (SIDE * SIDE) as usize;
const IMAGE_BYTES: usize = 3 * PLANE_BYTES;
const MAX_NAMES_BYTES: u64 = 1 << 20;

/// How labels and pixels are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Records of label bytes and pixels, nothing else.
    Binary,
    Pickle,
}

/// One of the published folders.
#[derive(Debug)]
pub(super) struct Release {
    name: &'static str,
    /// What the folder is called when unpacked.
    folder: &'static str,
    form: Form,
    train: &'static [&'static str],
    test: &'static [&'static str],
    /// Images in each file of `train` and of `test`.
    images_per_file: (usize, usize),
    /// Label bytes of a binary record; the last is the label.
    label_bytes: usize,
    /// The entry of the pickles that holds the labels.
    labels: &'static str,
    /// The files of class names, as text and pickled, and the entry of the latter.
    names: (&'static str, &'static str, &'static str),
    classes: &'static [&'static str],
}

pub(super) const CIFAR10_BINARY: Release = Release {
    name: "CIFAR-10",
    folder: "cifar-10-batches-bin",
    form: Form::Binary,
    train: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    test: &["test_batch.bin"],
    images_per_file: (10_000, 10_000),
    label_bytes: 1,
    labels: "labels",
    names: ("batches.meta.txt", "batches.meta", "label_names"),
    classes: &CIFAR10,
};

pub(super) const CIFAR10_PYTHON: Release = Release {
    folder: "cifar-10-batches-py",
    form: Form::Pickle,
    train: &["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"],
    test: &["test_batch"],
    ..CIFAR10_BINARY
};

pub(super) const CIFAR100_BINARY: Release = Release {
    name: "CIFAR-100",
    folder: "cifar-100-binary",
    form: Form::Binary,
    train: &["train.bin"],
    test: &["test.bin"],
    images_per_file: (50_000, 10_000),
    label_bytes: 2,
    labels: "fine_labels",
    names: ("fine_label_names.txt", "meta", "fine_label_names"),
    classes: &CIFAR100,
};

pub(super) const CIFAR100_PYTHON: Release = Release {
    folder: "cifar-100-python",
    form: Form::Pickle,
    train: &["train"],
    test: &["test"],
    ..CIFAR100_BINARY
};

static RELEASES: [Release; 4] = [CIFAR10_BINARY, CIFAR10_PYTHON, CIFAR100_BINARY, CIFAR100_PYTHON];

impl Release {
    /// The release at or just below `path` and its folder, if there is one.
    ///
    /// # Errors
    /// If there are several.
    pub(super) fn find(path: &Path) -> Result<Option<(&'static Self, PathBuf)>, DataError> {
        let holds = |dir: &Path, release: &Self| {
            [release.train[0], release.test[0]].iter().any(|file| dir.join(file).is_file())
        };
        let here = RELEASES.iter().map(|release| (release, path.to_path_buf()));
        let below = RELEASES.iter().map(|release| (release, path.join(release.folder)));
        let found: Vec<_> =
            here.chain(below).filter(|(release, dir)| holds(dir, release)).collect();
        match found.as_slice() {
            [] => Ok(None),
            // Files given directly win over folders below them.
            [(_, first), (_, second), ..] if first == second || first != path => {
                let found = found.iter().map(|(release, _)| release.folder).collect::<Vec<_>>();
                Err(DataError::Ambiguous { path: path.into(), found: found.join(", ") })
            }
            [(release, dir), ..] => Ok(Some((*release, dir.clone()))),
        }
    }

    /// What the set is called.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Reads one split into memory.
    pub(super) fn open(&self, dir: &Path, split: Split) -> Result<Cifar, DataError> {
        let (files, num_images) = match split {
            Split::Train => (self.train, self.images_per_file.0),
            Split::Test => (self.test, self.images_per_file.1),
        };
        self.read(dir, files, num_images)
    }

    /// As [`Release::open`], with any files of any number of records.
    pub(super) fn read(
        &self,
        dir: &Path,
        files: &[&str],
        num_images: usize,
    ) -> Result<Cifar, DataError> {
        let mut cifar = Cifar { classes: self.classes(dir), ..Cifar::default() };
        let mut bytes = Vec::new();
        for file in files {
            let path = dir.join(file);
            read_file(&path, &mut bytes).map_err(DataError::io("read", &path))?;
            self.append(&bytes, num_images, &mut cifar)
                .map_err(|problem| DataError::malformed(&path, problem))?;
            cifar.files.push((path, cifar.labels.len()));
        }
        Ok(cifar)
    }

    /// Appends one file.
    pub(super) fn append(
        &self,
        file: &[u8],
        num_images: usize,
        to: &mut Cifar,
    ) -> Result<(), String> {
        match self.form {
            Form::Binary => self.append_records(file, num_images, to),
            Form::Pickle => self.append_pickle(file, to),
        }
    }

    /// Appends the records of a binary file.
    fn append_records(&self, file: &[u8], num_images: usize, to: &mut Cifar) -> Result<(), String> {
        let record_bytes = self.label_bytes + IMAGE_BYTES;
        let expected = num_images * record_bytes;
        if file.len() != expected {
            return Err(format!(
                "{} bytes, but this file of {} has {expected}; fetch it again",
                file.len(),
                self.name
            ));
        }
        for (record, bytes) in file.chunks_exact(record_bytes).enumerate() {
            let (labels, pixels) = bytes.split_at(self.label_bytes);
            self.append_label(record, i64::from(labels[self.label_bytes - 1]), to)?;
            to.pixels.extend_from_slice(pixels);
        }
        Ok(())
    }

    /// Appends the images of a pickle, however many it has.
    fn append_pickle(&self, file: &[u8], to: &mut Cifar) -> Result<(), String> {
        let pickle = Pickle::read(file).map_err(|error| error.to_string())?;
        let labels = pickle.ints(self.labels)?;
        let data = pickle.byte_array("data")?;
        if labels.is_empty() || data.shape() != (labels.len(), IMAGE_BYTES) {
            let (rows, columns) = data.shape();
            return Err(format!(
                "has {} labels and data of {rows} x {columns}, but {} has {IMAGE_BYTES} bytes for \
                 each label; fetch it again",
                labels.len(),
                self.name
            ));
        }
        for (record, &label) in labels.iter().enumerate() {
            self.append_label(record, label, to)?;
        }
        data.append_to(&mut to.pixels);
        Ok(())
    }

    fn append_label(&self, record: usize, label: i64, to: &mut Cifar) -> Result<(), String> {
        match u8::try_from(label) {
            Ok(label) if usize::from(label) < self.classes.len() => to.labels.push(label),
            _ => {
                return Err(format!(
                    "record {record} has label {label}, but {} has classes 0 to {}; fetch it again",
                    self.name,
                    self.classes.len() - 1
                ));
            }
        }
        Ok(())
    }

    /// The names in the files beside the images, or the published ones if there are none.
    fn classes(&self, dir: &Path) -> Classes {
        let (text, pickled, entry) = self.names;
        let names = match (dir.join(text), dir.join(pickled)) {
            (path, _) if path.is_file() => read_text(&path, MAX_NAMES_BYTES)
                .map(|text| lines(&text))
                .map_err(|error| (path, error.to_string())),
            (_, path) if path.is_file() => {
                pickled_names(&path, entry).map_err(|problem| (path, problem))
            }
            _ => Ok(Vec::new()),
        };
        let names = match names {
            Ok(names) if names.len() == self.classes.len() => names,
            Ok(_) => self.classes.iter().map(ToString::to_string).collect(),
            Err((path, problem)) => {
                tracing::warn!("{}: {problem}; its class names are not used", path.display());
                self.classes.iter().map(ToString::to_string).collect()
            }
        };
        Classes { ids: names.clone(), names }
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect()
}

fn pickled_names(path: &Path, entry: &str) -> Result<Vec<String>, String> {
    let mut bytes = Vec::new();
    read_file(path, &mut bytes).map_err(|error| error.to_string())?;
    Pickle::read(&bytes).map_err(|error| error.to_string())?.strings(entry)
}

/// One split of CIFAR.
#[derive(Default)]
pub(super) struct Cifar {
    /// Planes of red, green and blue, image by image.
    pixels: Vec<u8>,
    labels: Vec<u8>,
    /// Each file and the number of images up to its end.
    files: Vec<(PathBuf, usize)>,
    classes: Classes,
}

impl Source for Cifar {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes.ids
    }

    fn label(&self, index: usize) -> usize {
        usize::from(self.labels[index])
    }

    fn name(&self, index: usize) -> String {
        let file = self.files.partition_point(|(_, end)| *end <= index);
        let start = if file == 0 { 0 } else { self.files[file - 1].1 };
        format!("{} record {}", self.files[file].0.display(), index - start)
    }

    fn read(&self, index: usize, bytes: &mut Vec<u8>) -> std::io::Result<Content> {
        let (red, rest) = self.pixels[index * IMAGE_BYTES..][..IMAGE_BYTES].split_at(PLANE_BYTES);
        let (green, blue) = rest.split_at(PLANE_BYTES);
        bytes.clear();
        bytes.extend(red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]));
        Ok(Content::Rgb { width: SIDE, height: SIDE })
    }
}

const CIFAR10: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

#[rustfmt::skip]
const CIFAR100: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup",
    "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house",
    "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man",
    "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy",
    "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal",
    "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar",
    "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman",
    "worm",
];
