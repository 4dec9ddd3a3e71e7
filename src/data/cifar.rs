//! CIFAR-10 in its binary form: files of 10,000 records, each a label byte and 32x32 pixels as
//! three planes (red, green, blue).
//!
//! A split is held in memory as it lies in the files: 154 MB for training, 31 MB for testing.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::DataError;
use super::source::{Content, Source, Split};

const SIDE: u32 = 32;
const PLANE_BYTES: usize = (SIDE * SIDE) as usize;
const RECORD_BYTES: usize = 1 + 3 * PLANE_BYTES;
const RECORDS_PER_FILE: usize = 10_000;
const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// One split of CIFAR-10.
pub(super) struct Cifar {
    records: Vec<u8>,
    files: Vec<PathBuf>,
    records_per_file: usize,
    classes: Vec<String>,
}

impl Cifar {
    /// The folder at or just below `path` that holds the binary files, if there is one.
    ///
    /// # Errors
    /// When it holds the pickled release instead.
    pub(super) fn find(path: &Path) -> Result<Option<PathBuf>, DataError> {
        let holds =
            |dir: &Path, files: [&str; 2]| files.iter().any(|file| dir.join(file).is_file());
        for dir in [path.to_path_buf(), path.join("cifar-10-batches-bin")] {
            if holds(&dir, ["data_batch_1.bin", "test_batch.bin"]) {
                return Ok(Some(dir));
            }
        }
        for dir in [path.to_path_buf(), path.join("cifar-10-batches-py")] {
            if holds(&dir, ["data_batch_1", "test_batch"]) {
                return Err(DataError::CifarPickles { path: dir });
            }
        }
        Ok(None)
    }

    /// Reads one split into memory.
    pub(super) fn open(dir: &Path, split: Split) -> Result<Self, DataError> {
        let files = match split {
            Split::Train => (1..=5).map(|i| dir.join(format!("data_batch_{i}.bin"))).collect(),
            Split::Test => vec![dir.join("test_batch.bin")],
        };
        Self::read(dir, files, RECORDS_PER_FILE)
    }

    /// As [`Cifar::open`], with files of any number of records.
    pub(super) fn read(
        dir: &Path,
        files: Vec<PathBuf>,
        records_per_file: usize,
    ) -> Result<Self, DataError> {
        let mut records = Vec::with_capacity(files.len() * records_per_file * RECORD_BYTES);
        for path in &files {
            append(path, records_per_file, &mut records)?;
        }
        Ok(Self { records, files, records_per_file, classes: class_names(dir) })
    }

    fn record(&self, index: usize) -> &[u8] {
        &self.records[index * RECORD_BYTES..][..RECORD_BYTES]
    }
}

/// Appends one file after checking its length and every label.
fn append(path: &Path, num_records: usize, records: &mut Vec<u8>) -> Result<(), DataError> {
    let mut file = File::open(path).map_err(DataError::io("open", path))?;
    let found = file.metadata().map_err(DataError::io("read", path))?.len();
    let expected = (num_records * RECORD_BYTES) as u64;
    if found != expected {
        return Err(DataError::CifarLength { path: path.into(), found, expected });
    }
    let start = records.len();
    records.resize(start + num_records * RECORD_BYTES, 0);
    file.read_exact(&mut records[start..]).map_err(DataError::io("read", path))?;
    let mut labels = records[start..].iter().step_by(RECORD_BYTES).copied().enumerate();
    match labels.find(|&(_, label)| usize::from(label) >= CLASSES.len()) {
        Some((record, label)) => Err(DataError::CifarLabel { path: path.into(), record, label }),
        None => Ok(()),
    }
}

/// The names in `batches.meta.txt`, or the published ones if that file is absent or not ten lines.
fn class_names(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("batches.meta.txt")).unwrap_or_default();
    let names: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    if names.len() == CLASSES.len() { names } else { CLASSES.map(String::from).to_vec() }
}

impl Source for Cifar {
    fn len(&self) -> usize {
        self.records.len() / RECORD_BYTES
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> usize {
        usize::from(self.record(index)[0])
    }

    fn name(&self, index: usize) -> String {
        let file = &self.files[index / self.records_per_file];
        format!("{} record {}", file.display(), index % self.records_per_file)
    }

    fn read(&self, index: usize, bytes: &mut Vec<u8>) -> io::Result<Content> {
        let (red, rest) = self.record(index)[1..].split_at(PLANE_BYTES);
        let (green, blue) = rest.split_at(PLANE_BYTES);
        bytes.clear();
        bytes.extend(red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]));
        Ok(Content::Rgb { width: SIDE, height: SIDE })
    }
}
