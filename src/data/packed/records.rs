//! The layout of a shard of pixels: a safetensors file of `labels`, I32 `[n]`, and `images`, U8
//! `[n, size, size, 3]`, that begins its images on a page.
//!
//! Labels come before images although images are known first: a writer leaves room for as many
//! labels as there may be, appends images, and in the end puts labels and a header, padded with
//! spaces as the format allows, in front of them. So a shard is written once, whatever its size, and
//! a record of 256 x 256 pixels lies on whole pages. A header read from a file is believed only where
//! it agrees with the length of the file and with the manifest. Files are opened elsewhere.

use std::collections::BTreeMap;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::json;

use super::super::archive::printable;

/// The bytes of the header's length.
const LENGTH_BYTES: usize = 8;
/// Where images may begin.
const PAGE_BYTES: usize = 4096;
/// Room for what is added to the notes in the end: the sums and statistics of a shard take 1.3 kB.
const SLACK_BYTES: usize = 4096;
/// A thousand classes with their names need 0.1 MB.
const MAX_HEADER_BYTES: usize = 16 << 20;
const LABEL_BYTES: usize = size_of::<i32>();

/// What is in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordsContent {
    /// Images.
    pub num_images: usize,
    /// The side of each, in pixels.
    pub size: u32,
}

/// Where a shard's tensors begin, in bytes from the start of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::data) struct Places {
    pub(in crate::data) labels: usize,
    pub(in crate::data) images: usize,
}

/// The `__metadata__` of a shard.
pub type Notes = BTreeMap<String, String>;

impl RecordsContent {
    /// The bytes of one image.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        3 * self.size as usize * self.size as usize
    }

    fn shapes(&self) -> (Vec<usize>, Vec<usize>) {
        let (n, side) = (self.num_images, self.size as usize);
        (vec![n], vec![n, side, side, 3])
    }

    /// Where images begin in a shard that holds at most this, with `notes` and up to 4 kB more.
    #[must_use]
    pub fn images_start(&self, notes: &Notes) -> usize {
        let header = self.header(notes).len() + SLACK_BYTES;
        (LENGTH_BYTES + header + self.num_images * LABEL_BYTES).next_multiple_of(PAGE_BYTES)
    }

    /// What stands before the images, which begin at `images_start`; `None` if it does not fit.
    ///
    /// # Panics
    /// If there are more or fewer labels than images.
    #[must_use]
    pub fn front(&self, notes: &Notes, labels: &[i32], images_start: usize) -> Option<Vec<u8>> {
        assert_eq!(labels.len(), self.num_images, "every image has a label");
        let header = self.header(notes);
        let room = images_start.checked_sub(LENGTH_BYTES + self.num_images * LABEL_BYTES)?;
        if header.len() > room {
            return None;
        }
        let mut front = (room as u64).to_le_bytes().to_vec();
        front.extend(header.as_bytes());
        front.resize(LENGTH_BYTES + room, b' ');
        front.extend(labels.iter().flat_map(|label| label.to_le_bytes()));
        Some(front)
    }

    fn header(&self, notes: &Notes) -> String {
        let (labels, images) = self.shapes();
        let split = self.num_images * LABEL_BYTES;
        let end = split + self.num_images * self.image_bytes();
        let header = json!({
            "__metadata__": notes,
            "labels": { "dtype": "I32", "shape": labels, "data_offsets": [0, split] },
            "images": { "dtype": "U8", "shape": images, "data_offsets": [split, end] },
        });
        header.to_string()
    }

    /// Where this content lies in `file`.
    ///
    /// # Errors
    /// In words, if the header is none, or says anything else.
    pub(in crate::data) fn find(&self, file: &[u8]) -> Result<Places, String> {
        let (length, rest) = file
            .split_first_chunk::<LENGTH_BYTES>()
            .ok_or("has no header, so it is cut off; copy it again")?;
        let length = u64::from_le_bytes(*length);
        let header = usize::try_from(length)
            .ok()
            .filter(|&length| length <= MAX_HEADER_BYTES)
            .and_then(|length| rest.get(..length))
            .ok_or_else(|| {
                format!(
                    "claims a header of {length} bytes in a file of {} (at most {} MiB), so it is \
                     damaged or no safetensors file; copy it again",
                    file.len(),
                    MAX_HEADER_BYTES >> 20
                )
            })?;
        let damaged = |reason: String| {
            format!("has a damaged header ({}); copy it again", printable(&reason))
        };
        let header_bytes = header.len();
        let header: Metadata =
            serde_json::from_slice(header).map_err(|error| damaged(error.to_string()))?;
        let (labels, images) = self.tensors(&header, rest.len() - header_bytes).map_err(damaged)?;
        let data = LENGTH_BYTES + header_bytes;
        Ok(Places { labels: data + labels, images: data + images })
    }

    /// The offsets of labels and images in `num_bytes` of data. That tensors follow each other and are
    /// as long as their shapes say is the library's to check, and has been.
    fn tensors(&self, header: &Metadata, num_bytes: usize) -> Result<(usize, usize), String> {
        let (labels_shape, images_shape) = self.shapes();
        let tensor = |name: &str, dtype, shape: &[usize]| {
            let tensor = header.info(name).ok_or_else(|| format!("no tensor {name}"))?;
            if tensor.dtype == dtype && tensor.shape == shape {
                return Ok(tensor.data_offsets);
            }
            let TensorInfo { dtype: found, shape: found_shape, .. } = tensor;
            Err(format!("{name} are {found:?} {found_shape:?} where {dtype:?} {shape:?} must be"))
        };
        let labels = tensor("labels", Dtype::I32, &labels_shape)?;
        let images = tensor("images", Dtype::U8, &images_shape)?;
        let (num_tensors, end) = (header.tensors().len(), labels.1.max(images.1));
        if num_tensors != 2 || end != num_bytes {
            return Err(format!(
                "{num_tensors} tensors of {end} bytes where 2 of {num_bytes} must be"
            ));
        }
        Ok((labels.0, images.0))
    }
}
