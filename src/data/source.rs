//! Where images lie: one interface for every kind of image set.
//!
//! A [`Source`] is one split. It hands out bytes and labels by index; it knows nothing of order,
//! decoding or batches.

use std::io;
use std::sync::Arc;

use super::finish::Frame;

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
    /// What tells the classes of the training split apart (folder names, WordNet ids), by label.
    fn classes(&self) -> &[String];
    /// What people call the classes, by label, where that is known; else the same as `classes`.
    fn class_names(&self) -> &[String] {
        self.classes()
    }
    /// The label of image `index`, below `classes().len()`.
    fn label(&self, index: usize) -> usize;
    /// What to call image `index` in a message: its path, or file and record.
    fn name(&self, index: usize) -> String;
    /// Replaces `bytes` by image `index`.
    ///
    /// # Errors
    /// When the file cannot be read; the caller adds the name.
    fn read(&self, index: usize, bytes: &mut Vec<u8>) -> io::Result<Content>;
    /// Image `index` where it lies, if it lies in memory as pixels. It is then never read, nor
    /// copied as a whole.
    fn frame(&self, _index: usize) -> Option<Frame<'_>> {
        None
    }
}

/// A source that many threads read.
pub type Images = Arc<dyn Source>;
