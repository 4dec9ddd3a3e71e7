//! Where images lie: one interface for every kind of image set, and the recognition of the kind.
//!
//! A [`Source`] is one split. It hands out bytes and labels by index; it knows nothing of order,
//! decoding or batches.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::cifar::Cifar;
use super::error::DataError;
use super::folder::Folder;

/// What [`Source::read`] left in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file of a format the decoder recognises by its first bytes.
    Encoded,
    /// Interleaved RGB8, row by row.
    Rgb {
        /// Pixels a row.
        width: u32,
        /// Rows.
        height: u32,
    },
}

/// Which part of an image set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The images to learn from.
    Train,
    /// The images to evaluate on (`val` or `test`).
    Test,
}

/// One split of an image set: images by index, always in the same order.
#[allow(clippy::len_without_is_empty)] // a source without images cannot be opened
pub trait Source: Send + Sync {
    /// The number of images, at least one.
    fn len(&self) -> usize;
    /// The class names of the training split, by label.
    fn classes(&self) -> &[String];
    /// The label of image `index`, below `classes().len()`.
    fn label(&self, index: usize) -> usize;
    /// What to call image `index` in a message: its path, or file and record.
    fn name(&self, index: usize) -> String;
    /// Replaces `bytes` by image `index`.
    ///
    /// # Errors
    /// When the file cannot be read; the caller adds the name.
    fn read(&self, index: usize, bytes: &mut Vec<u8>) -> io::Result<Content>;
}

/// Opens one split of the image set at `path`, whose kind is recognised by its files: binary
/// CIFAR-10 (also one level down, in `cifar-10-batches-bin`), else `train/<class>/*` beside
/// `val/<class>/*` or `test/<class>/*`.
///
/// # Errors
/// A [`DataError`] that names the path and what was expected there.
pub fn open(path: &Path, split: Split) -> Result<Arc<dyn Source>, DataError> {
    let metadata = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(DataError::Missing { path: path.into() });
        }
        other => other.map_err(DataError::io("open", path))?,
    };
    if !metadata.is_dir() {
        return Err(DataError::NotAFolder { path: path.into() });
    }
    match Cifar::find(path)? {
        Some(folder) => Ok(Arc::new(Cifar::open(&folder, split)?)),
        None => Ok(Arc::new(Folder::open(path, split)?)),
    }
}
