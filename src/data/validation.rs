//! The labels of ILSVRC2012's validation images, which lie in one folder or tar without classes.
//!
//! People have them in one of three forms, all read here, for an image `ILSVRC2012_val_00000001`:
//! - the devkit: `ILSVRC2012_validation_ground_truth.txt`, an ILSVRC id a line, with `meta.mat` (or
//!   `map_clsloc.txt`, `n02119789 1 kit_fox`) that says which class an id is; unpacked, or in
//!   `ILSVRC2012_devkit_t12.tar.gz`. ILSVRC ids are not labels: labels count the sorted classes;
//! - Kaggle's `LOC_val_solution.csv`: `ILSVRC2012_val_00048981,n03995372 85 1 499 272`;
//! - TensorFlow's `imagenet_2012_validation_synset_labels.txt`: a WordNet id a line.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::archive::{printable, walk};
use super::class_names::read_text;
use super::error::DataError;
use super::files::read_file;

const GROUND_TRUTH: &str = "ILSVRC2012_validation_ground_truth.txt";
const TABLE: &str = "meta.mat";
const TEXT_TABLE: &str = "map_clsloc.txt";
const DEVKIT: &str = "ILSVRC2012_devkit_t12";
const SOLUTION: &str = "LOC_val_solution.csv";
const SYNSETS: &str = "imagenet_2012_validation_synset_labels.txt";
const PREFIX: &str = "ILSVRC2012_val_";
/// Kaggle's file has 2 MB.
const MAX_TEXT_BYTES: u64 = 64 << 20;
/// The devkit has 10 MB.
const MAX_DEVKIT_BYTES: u64 = 256 << 20;
/// There are 50,000 images.
const MAX_NUMBER: usize = 1_000_000;
/// No label: the class is not one of the training split, or nothing is said about the image.
const NONE: u32 = u32::MAX;

/// The label of each validation image.
pub(super) struct Validation {
    path: PathBuf,
    /// By the number in the image's name, less one.
    labels: Vec<u32>,
}

impl Validation {
    /// Reads the first of the three forms that lies in one of `dirs`, for sorted `classes`.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub(super) fn find(dirs: &[PathBuf], classes: &[String]) -> Result<Self, DataError> {
        let in_dirs = |file: &str| dirs.iter().map(|dir| dir.join(file)).find(|p| p.is_file());
        let label = |wnid: &str| match classes.binary_search_by(|class| class.as_str().cmp(wnid)) {
            Ok(label) => label as u32,
            Err(_) => NONE,
        };
        if let Some(path) = in_dirs(SOLUTION) {
            let labels = solution(&text(&path)?, label)
                .map_err(|problem| DataError::malformed(&path, problem))?;
            return Ok(Self { path, labels });
        }
        if let Some(path) = in_dirs(SYNSETS) {
            let labels = text(&path)?.lines().map(|line| label(line.trim())).collect();
            return Ok(Self { path, labels });
        }
        let Devkit { path, truth, wnids } = Devkit::find(dirs)?;
        let labels = ids(&truth)
            .map(|ids| ids.iter().map(|id| wnids.get(id).map_or(NONE, |id| label(id))).collect())
            .map_err(|problem| DataError::malformed(&path, problem))?;
        Ok(Self { path, labels })
    }

    /// The label of an image.
    ///
    /// # Errors
    /// In words: the image's name has no number, or the number no label.
    pub(super) fn label(&self, file_name: &str) -> Result<u32, String> {
        let number = number(file_name).ok_or_else(|| {
            format!(
                "{}: has no class folder and no name like {PREFIX}00000001.JPEG, so it has no \
                 label; move it into its class's folder",
                printable(file_name)
            )
        })?;
        match self.labels.get(number - 1) {
            Some(&NONE) | None => Err(format!(
                "{}: {} gives it no class of the training split; remove the image, or add its \
                 class to the training split",
                printable(file_name),
                self.path.display()
            )),
            Some(&label) => Ok(label),
        }
    }
}

/// Whether a file is one of ILSVRC2012's validation images, by its name.
pub(super) fn is_name(file_name: &str) -> bool {
    number(file_name).is_some()
}

/// 17 for `ILSVRC2012_val_00000017` with anything after it.
fn number(name: &str) -> Option<usize> {
    let digits = name.strip_prefix(PREFIX)?;
    let digits = digits.split_once('.').map_or(digits, |(digits, _)| digits);
    digits.parse().ok().filter(|number| (1..=MAX_NUMBER).contains(number))
}

/// Reads Kaggle's table.
pub(super) fn solution(text: &str, label: impl Fn(&str) -> u32) -> Result<Vec<u32>, String> {
    let mut labels = Vec::new();
    for (line, at) in text.lines().skip(1).zip(2..) {
        let parsed = line.split_once(',').and_then(|(image, boxes)| {
            Some((number(image.trim())?, boxes.split_whitespace().next()?))
        });
        let (number, wnid) = parsed.ok_or_else(|| {
            format!("line {at} is not IMAGE,CLASS and boxes; fetch the file again")
        })?;
        if labels.len() < number {
            labels.resize(number, NONE);
        }
        labels[number - 1] = label(wnid);
    }
    Ok(labels)
}

/// An ILSVRC id a line.
pub(super) fn ids(text: &str) -> Result<Vec<u32>, String> {
    let parse = |(line, at): (&str, usize)| {
        line.trim().parse().map_err(|_| format!("line {at} is not an ILSVRC id; fetch it again"))
    };
    text.lines().zip(1..).map(parse).collect()
}

/// What the devkit says.
struct Devkit {
    /// Where the ids come from.
    path: PathBuf,
    truth: String,
    /// By ILSVRC id.
    wnids: HashMap<u32, String>,
}

impl Devkit {
    fn find(dirs: &[PathBuf]) -> Result<Self, DataError> {
        let unpacked = ["".into(), "data".into(), format!("{DEVKIT}/data"), "devkit/data".into()];
        let places: Vec<PathBuf> =
            dirs.iter().flat_map(|dir| unpacked.iter().map(|sub| dir.join(sub))).collect();
        let find = |file: &str| places.iter().map(|dir| dir.join(file)).find(|p| p.is_file());
        let archive = dirs.iter().map(|dir| dir.join(format!("{DEVKIT}.tar.gz")));
        let archive = archive.into_iter().find(|path| path.is_file());
        let packed = archive.as_deref().map(unpack).transpose()?.unwrap_or_default();
        let archive = archive.unwrap_or_default();

        let (path, truth) = match (find(GROUND_TRUTH), packed.truth) {
            (Some(path), _) => (path.clone(), text(&path)?),
            (None, Some(truth)) => (archive.clone(), truth),
            (None, None) => return Err(DataError::NoValidationLabels { path: dirs[0].clone() }),
        };
        let wnids = match (find(TABLE), packed.table, find(TEXT_TABLE)) {
            (Some(path), _, _) => {
                let mut bytes = Vec::new();
                read_file(&path, &mut bytes).map_err(DataError::io("read", &path))?;
                table(&path, &bytes)?
            }
            (None, Some(bytes), _) => table(&archive, &bytes)?,
            (None, None, Some(path)) => {
                text_table(&text(&path)?).map_err(|problem| DataError::malformed(&path, problem))?
            }
            (None, None, None) => return Err(DataError::NoDevkitTable { path }),
        };
        Ok(Self { path, truth, wnids })
    }
}

fn table(path: &Path, bytes: &[u8]) -> Result<HashMap<u32, String>, DataError> {
    super::matlab::wnids(bytes)
        .map_err(|problem| DataError::malformed(path, format!("{TABLE} {problem}")))
}

/// `n02119789 1 kit_fox`, one class a line.
pub(super) fn text_table(text: &str) -> Result<HashMap<u32, String>, String> {
    let parse = |(line, at): (&str, usize)| {
        let mut words = line.split_whitespace();
        words
            .next()
            .zip(words.next().and_then(|id| id.parse().ok()))
            .map(|(wnid, id)| (id, wnid.to_owned()))
            .ok_or_else(|| format!("line {at} is not WNID ID NAME; fetch it again"))
    };
    text.lines().zip(1..).map(parse).collect()
}

fn text(path: &Path) -> Result<String, DataError> {
    read_text(path, MAX_TEXT_BYTES).map_err(DataError::io("read", path))
}

/// The two files of the devkit that matter.
#[derive(Default)]
struct Packed {
    truth: Option<String>,
    table: Option<Vec<u8>>,
}

/// Reads them from the devkit as it is distributed.
fn unpack(path: &Path) -> Result<Packed, DataError> {
    let file = File::open(path).map_err(DataError::io("open", path))?;
    let mut bytes = Vec::new();
    let mut limited = GzDecoder::new(BufReader::new(file)).take(MAX_DEVKIT_BYTES + 1);
    limited.read_to_end(&mut bytes).map_err(DataError::io("decompress", path))?;
    if bytes.len() as u64 > MAX_DEVKIT_BYTES {
        let problem =
            format!("decompresses to more than {} MiB; fetch it again", MAX_DEVKIT_BYTES >> 20);
        return Err(DataError::malformed(path, problem));
    }
    let mut found = Packed::default();
    let len = bytes.len() as u64;
    walk(&bytes, 0..len, |member| {
        let content = &bytes[member.bytes.start as usize..member.bytes.end as usize];
        match member.file_name() {
            GROUND_TRUTH => found.truth = Some(String::from_utf8_lossy(content).into_owned()),
            TABLE => found.table = Some(content.to_vec()),
            _ => {}
        }
        Ok(())
    })
    .map_err(|problem| DataError::malformed(path, problem))?;
    Ok(found)
}
