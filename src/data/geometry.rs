//! The sizes an image passes through, and what of it a window then shows.
//!
//! Which window it is, and what is done to its pixels, is not known here.

use std::ops::Range;

use super::cover::{Cover, Drawing, Needed, Window};
use super::error::DataError;

/// Sizes, in pixels, from an image to the network's input.
///
/// With `resize > 0` the shorter side is scaled to `resize` by an antialiased bilinear filter, the
/// longer one in proportion, rounded down, and the frame is the central square: the pixels of
/// torchvision's `Resize` and `CenterCrop`. With `resize == 0` the frame is the image as it is; an image too small for the crop
/// is treated as if `resize` were `crop`. The frame is then padded and windows are cut from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The side of the square frame; 0 keeps images as they are.
    pub resize: u32,
    /// Zeros on each side of the frame: zero in the output, so the mean colour.
    pub pad: u32,
    /// The side of the output.
    pub crop: u32,
}

impl Geometry {
    /// The largest of any of the three, and the largest side of packed images.
    pub const MAX_SIDE: u32 = 4096;

    /// Whether the sizes fit each other.
    ///
    /// # Errors
    /// [`DataError::Geometry`] if the crop is zero or larger than the padded frame.
    pub fn check(&self) -> Result<(), DataError> {
        let Self { resize, pad, crop } = *self;
        let reason = if resize > Self::MAX_SIDE || pad > Self::MAX_SIDE || crop > Self::MAX_SIDE {
            format!("resize {resize}, pad {pad} and crop {crop} must be at most {}", Self::MAX_SIDE)
        } else if crop == 0 {
            "crop must be at least 1".into()
        } else if resize > 0 && crop > resize + 2 * pad {
            let padded = resize + 2 * pad;
            format!("crop {crop} is larger than the padded frame ({padded}); raise resize or pad")
        } else {
            return Ok(());
        };
        Err(DataError::Geometry { reason })
    }

    /// The number of values of one output image, `crop * crop * 3`.
    #[must_use]
    pub fn num_values(&self) -> usize {
        self.crop as usize * self.crop as usize * 3
    }

    /// The side of the frame, or `None` where it is the image as it is.
    pub(super) fn frame_side(&self, width: u32, height: u32) -> Option<u32> {
        match self.resize {
            0 if width.min(height) + 2 * self.pad >= self.crop => None,
            0 => Some(self.crop),
            side if (width, height) == (side, side) => None,
            side => Some(side),
        }
    }

    /// The frame of a `width` x `height` image and what of it is needed, which is told how far a
    /// window can move; `None` where the frame is the image as it is and not square.
    pub(super) fn drawing(
        &self,
        width: u32,
        height: u32,
        needed: impl Fn((u32, u32)) -> Needed,
    ) -> Option<Drawing> {
        let side = self.frame_side(width, height).or((width == height).then_some(width))?;
        let cover = Cover::centre(side, width, height);
        Some(match needed(self.slack(side, side)) {
            Needed::Frame => Drawing::whole(cover),
            Needed::Window(window) => {
                let (columns, rows) = self.shown(side, side, window);
                Drawing { cover, columns, rows }
            }
        })
    }

    /// The columns and rows of a frame of `width` x `height` that a window shows.
    pub(super) fn shown(
        &self,
        width: u32,
        height: u32,
        window: Window,
    ) -> (Range<u32>, Range<u32>) {
        let range = |from: u32, len: u32| {
            let inside = |at: u32| at.saturating_sub(self.pad).min(len);
            inside(from)..inside(from + self.crop)
        };
        (range(window.left, width), range(window.top, height))
    }

    /// How far a window can move in a frame of `width` x `height`.
    pub(super) fn slack(&self, width: u32, height: u32) -> (u32, u32) {
        (width + 2 * self.pad - self.crop, height + 2 * self.pad - self.crop)
    }
}
