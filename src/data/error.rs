//! What can be wrong with an image set, each said in one line: what, where, why, what to do.
//!
//! Errors are `Clone` because one failure of the loader reaches every consumer. They do not decide
//! exit codes or how they are printed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::decode::DecodeError;

/// Why images cannot be delivered.
#[derive(Clone, Debug, Error)]
pub enum DataError {
    /// The path of the image set is not there.
    #[error(
        "{}: no such folder; expected an image folder (PATH/train/<class>/*.jpg), the tars of \
         ILSVRC2012, webdataset shards, CIFAR files or a packed folder", .path.display()
    )]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// The path is a file of no known kind.
    #[error(
        "{}: is a file, not a folder; give the folder that contains train/, or webdataset shards \
         (NAME-{{000000..000146}}.tar)", .path.display()
    )]
    NotAFolder {
        /// The path as given.
        path: PathBuf,
    },
    /// There is nothing in the folder.
    #[error("{}: the folder is empty; expected PATH/train/<class>/*.jpg", .path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// Images lie directly in the folder, without classes.
    #[error(
        "{}: has images directly in it ({example}, ...) and no class folders; the folder's name is \
         the label: move them to {expected}/<class>/", .path.display()
    )]
    Flat {
        /// The folder that should hold folders.
        path: PathBuf,
        /// One of the images.
        example: String,
        /// Where class folders should be.
        expected: String,
    },
    /// No `train` folder, but other folders.
    #[error(
        "{}: has no train/ folder (found {found}); expected PATH/train/<class>/*.jpg", .path.display()
    )]
    NoTrain {
        /// The folder.
        path: PathBuf,
        /// What is there instead, a few names.
        found: String,
    },
    /// Neither `val` nor `test`.
    #[error(
        "{}: has neither val/ nor test/; expected PATH/val/<class>/*.jpg with the classes of train/",
        .path.display()
    )]
    NoTest {
        /// The folder.
        path: PathBuf,
    },
    /// A split without class folders.
    #[error("{}: has no class folders; expected {}/<class>/*.jpg", .path.display(), .path.display())]
    NoClasses {
        /// The split's folder.
        path: PathBuf,
    },
    /// A training set of one class.
    #[error(
        "{}: has one class only ({class}): a classifier needs at least two; expected \
         {}/<class>/*.jpg", .path.display(), .path.display()
    )]
    OneClass {
        /// The `train` folder.
        path: PathBuf,
        /// The class.
        class: String,
    },
    /// A class, or a whole test split, without images.
    #[error(
        "{}: has no images (*.jpg, *.jpeg, *.png); add some or remove the folder", .path.display()
    )]
    NoImages {
        /// The folder.
        path: PathBuf,
    },
    /// The test split has a class the training split has not.
    #[error(
        "{}: is not a class of {}, so its images have no label; add the class there or remove this \
         folder", .path.display(), .train.display()
    )]
    UnknownTestClass {
        /// The class folder of the test split.
        path: PathBuf,
        /// The `train` folder.
        train: PathBuf,
    },
    /// ImageNet's validation images without a file that labels them.
    #[error(
        "{}: has validation images without class folders and no labels for them; put \
         ILSVRC2012_devkit_t12.tar.gz (or Kaggle's LOC_val_solution.csv) there", .path.display()
    )]
    NoValidationLabels {
        /// The data folder.
        path: PathBuf,
    },
    /// Ground truth in ILSVRC ids, without the table of ids.
    #[error(
        "{}: gives ILSVRC ids, and what they mean is missing; put meta.mat of the devkit (or \
         ILSVRC2012_devkit_t12.tar.gz) beside it", .path.display()
    )]
    NoDevkitTable {
        /// The file with the ids.
        path: PathBuf,
    },
    /// Several data sets where one was asked for.
    #[error("{}: holds several data sets ({found}); give the path of one", .path.display())]
    Ambiguous {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// A file that is not what its name or its own header says.
    #[error("{}: {problem}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in it, what is wrong, and what to do.
        problem: String,
    },
    /// An operation of the file system failed.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// A verb: "read", "create".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: Arc<io::Error>,
    },
    /// One image that was asked for by name cannot be decoded.
    #[error("{name}: {source}")]
    Decode {
        /// The image's path.
        name: String,
        /// The reason.
        source: DecodeError,
    },
    /// More images are bad than the run tolerates.
    #[error(
        "{count} of {len} images cannot be read (at most {limit} tolerated); the first is {first}: \
         {reason}; repair or remove them, or raise data.max_bad_fraction (of pack and stats: --max-bad-fraction)"
    )]
    TooManyBad {
        /// Distinct bad images seen.
        count: usize,
        /// Images in the set.
        len: usize,
        /// The largest tolerated count.
        limit: usize,
        /// The name of the bad image with the lowest index.
        first: String,
        /// Why that one is bad.
        reason: String,
    },
    /// An image and all its possible substitutes are bad.
    #[error("{first} and the {} images after it cannot be read: {reason}", .tries - 1)]
    NoSubstitute {
        /// The image first asked for.
        first: String,
        /// How many images were tried.
        tries: usize,
        /// Why the first is bad.
        reason: String,
    },
    /// There is no memory for a batch.
    #[error(
        "there is no memory for another {:.1} GB of batches; lower the batch size, or data.depth, the batches that \
         are made ahead", *.num_bytes as f64 / 1e9
    )]
    NoMemory {
        /// What was asked for.
        num_bytes: usize,
    },
    /// A batch larger than the training set.
    #[error(
        "the batch of {batch} images is larger than the training set of {len}; use a batch of at \
         most {len}"
    )]
    BatchTooLarge {
        /// The global batch.
        batch: usize,
        /// Images in the training set.
        len: usize,
    },
    /// Sizes that do not fit each other.
    #[error("image geometry: {reason}")]
    Geometry {
        /// Which and what to change.
        reason: String,
    },
    /// Images that have no statistics.
    #[error("statistics: {reason}")]
    Statistics {
        /// Why.
        reason: String,
    },
    /// A generated set that cannot be made.
    #[error("generated image set: {reason}")]
    GeneratedSpec {
        /// Which number and its range.
        reason: String,
    },
    /// The place of a generated set is taken by something else.
    #[error(
        "{}: exists and is not the generated set asked for ({wanted}); remove it or choose another \
         folder", .path.display()
    )]
    GeneratedTaken {
        /// The folder.
        path: PathBuf,
        /// The settings asked for.
        wanted: String,
    },
    /// The loading thread panicked: a defect of the program.
    #[error("the image loader panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// The wait was broken off because the run is ending for another reason.
    #[error("loading was cancelled")]
    Cancelled,
}

impl DataError {
    /// What is wrong with the content of a file.
    pub(crate) fn malformed(path: &Path, problem: impl Into<String>) -> Self {
        Self::Malformed { path: path.into(), problem: problem.into() }
    }

    /// For `map_err`: an I/O error with what was done to which path.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source: Arc::new(source) }
    }
}
