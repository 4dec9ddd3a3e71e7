//! Which kind of image set lies at a path, and its splits.
//!
//! Kinds are told apart by the names of their files; what is in these is up to the kinds.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cifar::Release;
use super::error::DataError;
use super::folder::{self, Folder};
use super::ilsvrc::{self, ClassTars};
use super::packed::PackedSet;
use super::shards::Shards;
use super::source::{Images, Split};

/// Opens one split of the image set at `path`, whose kind is recognised by its files:
/// - `train/<class>/*` beside `val/<class>/*` or `test/<class>/*`, or beside a flat `val` of
///   ILSVRC2012 with the devkit's labels;
/// - `ILSVRC2012_img_train.tar` (or `train/<wnid>.tar`) beside `val` or `ILSVRC2012_img_val.tar`;
/// - webdataset shards: a pattern with braces, a tar, or a folder of tars;
/// - CIFAR-10 and CIFAR-100, binary or Python's, also one level down;
/// - a folder written by `alexnet-mgpu pack`, by its manifest.
///
/// # Errors
/// A [`DataError`] that names the path and what was expected there.
pub fn open(path: &Path, split: Split) -> Result<Images, DataError> {
    Layout::find(path)?.open(split, None)
}

/// Opens the training and the test split of the image set at `path`; quicker than one after the
/// other where classes are known only from reading the training split.
///
/// # Errors
/// As [`open`].
pub fn open_both(path: &Path) -> Result<(Images, Images), DataError> {
    let layout = Layout::find(path)?;
    let train = layout.open(Split::Train, None)?;
    let test = layout.open(Split::Test, Some(train.classes()))?;
    Ok((train, test))
}

/// What kind of image set lies at `path`, in a few words.
///
/// # Errors
/// As [`open`], of which it does the first part.
pub fn kind(path: &Path) -> Result<&'static str, DataError> {
    Ok(match Layout::find(path)? {
        Layout::Packed(set) => set.kind(),
        Layout::Cifar(release, _) => release.name(),
        Layout::Shards(_) => "webdataset shards",
        Layout::Classes(root) if ilsvrc::is_here(&root)? => "tars of ILSVRC2012",
        Layout::Classes(_) => "image folder",
    })
}

/// The folder that belongs to the image set at `path`: itself, or the one that all shards of a pattern lie in
/// or below.
#[must_use]
pub fn home(path: &Path) -> PathBuf {
    let pattern = path.to_string_lossy();
    let Some(brace) = pattern.find('{').filter(|_| !path.exists()) else { return path.into() };
    match pattern[..brace].rfind('/') {
        Some(slash) => PathBuf::from(&pattern[..=slash]),
        None => PathBuf::from("."),
    }
}

/// The kinds of image sets.
enum Layout {
    Packed(PackedSet),
    Cifar(&'static Release, PathBuf),
    Shards(Shards),
    /// The folder that holds `train`, or ILSVRC2012's tars.
    Classes(PathBuf),
}

impl Layout {
    fn find(path: &Path) -> Result<Self, DataError> {
        let metadata = match std::fs::metadata(path) {
            Err(_) if path.to_string_lossy().contains('{') => {
                return Ok(Self::Shards(Shards::of_pattern(path)?));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DataError::Missing { path: path.into() });
            }
            other => other.map_err(DataError::io("open", path))?,
        };
        if !metadata.is_dir() {
            return Self::of_file(path);
        }
        if let Some(packed) = PackedSet::find(path)? {
            return Ok(Self::Packed(packed));
        }
        if let Some((release, folder)) = Release::find(path)? {
            return Ok(Self::Cifar(release, folder));
        }
        // As Kaggle unpacks ImageNet.
        let kaggle = path.join("ILSVRC/Data/CLS-LOC");
        let root = if kaggle.is_dir() { kaggle } else { path.into() };
        if ilsvrc::is_here(&root)? || folder::has_class_folders(&root)? {
            return Ok(Self::Classes(root));
        }
        match Shards::in_folder(&root)? {
            Some(shards) => Ok(Self::Shards(shards)),
            None => Ok(Self::Classes(root)),
        }
    }

    fn of_file(path: &Path) -> Result<Self, DataError> {
        let is_tar = path.extension().is_some_and(|extension| extension == "tar");
        match path.parent() {
            Some(folder) if ilsvrc::is_name(path) => {
                let here = Path::new(".");
                Ok(Self::Classes(if folder == Path::new("") { here } else { folder }.into()))
            }
            _ if is_tar => Ok(Self::Shards(Shards::of_pattern(path)?)),
            _ => Err(DataError::NotAFolder { path: path.into() }),
        }
    }

    fn open(&self, split: Split, classes: Option<&[String]>) -> Result<Images, DataError> {
        Ok(match self {
            Self::Packed(set) => set.open(split)?,
            Self::Cifar(release, folder) => Arc::new(release.open(folder, split)?),
            Self::Shards(shards) => Arc::new(shards.open(split, classes)?),
            Self::Classes(root) => match (split, ClassTars::find(root)?) {
                (Split::Train, Some(tars)) => Arc::new(tars.images()?),
                (Split::Train, None) => Arc::new(Folder::train(root)?),
                (Split::Test, Some(tars)) => test_of(root, tars.path(), tars.classes())?,
                (Split::Test, None) => {
                    test_of(root, &root.join("train"), folder::train_classes(root)?)?
                }
            },
        })
    }
}

/// The test split beside training `classes`, which lie at `train`.
fn test_of(root: &Path, train: &Path, classes: Vec<OsString>) -> Result<Images, DataError> {
    if let Some(folder) = Folder::test(root, "val", train, &classes)? {
        return Ok(Arc::new(folder));
    }
    // Before `test`, which in ILSVRC2012 has no labels.
    if let Some(images) = ilsvrc::validation(root, &classes)? {
        return Ok(Arc::new(images));
    }
    match Folder::test(root, "test", train, &classes)? {
        Some(folder) => Ok(Arc::new(folder)),
        None => Err(DataError::NoTest { path: root.into() }),
    }
}
