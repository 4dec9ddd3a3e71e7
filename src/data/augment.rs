//! Which window of an image the network sees, and how it is varied in training.
//!
//! Paper: the shorter side is resized to 256 and the central 256x256 square kept (§2); training
//! takes a random crop of it and its reflection, and shifts its colours (§4.1). torchvision's recipe
//! takes a random part of the whole image instead. Every draw is keyed by (seed, epoch, image), so
//! it does not depend on batches or threads. The pixels themselves are handled elsewhere.

use std::ops::Range;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::cover::{Cover, Drawing, Needed, Part, centre};
use super::error::DataError;
use super::finish::Normalisation;
use super::lighting::Lighting;
use crate::random::{Key, Purpose};

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
    /// The largest side of any of the three.
    const MAX: u32 = 4096;

    /// Whether the sizes fit each other.
    ///
    /// # Errors
    /// [`DataError::Geometry`] if the crop is zero or larger than the padded frame.
    pub fn check(&self) -> Result<(), DataError> {
        let Self { resize, pad, crop } = *self;
        let reason = if resize > Self::MAX || pad > Self::MAX || crop > Self::MAX {
            format!("resize {resize}, pad {pad} and crop {crop} must be at most {}", Self::MAX)
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

/// The choice of augmentation by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// Random crop, reflection and lighting (§4.1).
    #[default]
    Paper,
    /// torchvision's: a random part of the image, of 8 to 100 % of its area and a shape of 3:4 to
    /// 4:3, resized, and reflection.
    Torchvision,
    /// Random crop and reflection.
    CropFlip,
    /// Central crop and reflection.
    Flip,
    /// Central crop only.
    None,
}

impl Augment {
    /// What the name stands for; `lighting` matters where there is any.
    #[must_use]
    pub fn recipe(self, lighting: impl Into<Lighting>) -> Recipe {
        let (crop, flip, lighting) = match self {
            Self::Paper => (CropAt::Random, Flip::Random, Some(lighting.into())),
            Self::Torchvision => (CropAt::Part, Flip::Random, None),
            Self::CropFlip => (CropAt::Random, Flip::Random, None),
            Self::Flip => (CropAt::Centre, Flip::Random, None),
            Self::None => (CropAt::Centre, Flip::Never, None),
        };
        Recipe { crop, flip, lighting }
    }
}

/// Where the crop is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CropAt {
    /// Uniformly anywhere in the padded frame.
    Random,
    /// In the middle.
    Centre,
    /// All of a random part of the image, which is the frame: `resize` and `pad` do not apply.
    Part,
}

/// Whether images are reflected left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flip {
    /// With probability one half.
    Random,
    /// Not at all.
    Never,
}

/// How training images are varied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// The position of the crop.
    pub crop: CropAt,
    /// Reflection.
    pub flip: Flip,
    /// Colour noise, if any.
    pub lighting: Option<Lighting>,
}

/// A square of `crop` pixels in the padded frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Columns from the left edge of the padded frame.
    pub left: u32,
    /// Rows from its top.
    pub top: u32,
    /// Whether the window is mirrored left to right.
    pub mirrored: bool,
}

/// Which showing of which image: the coordinates of all its draws.
#[derive(Clone, Copy, Debug)]
pub(super) struct Showing {
    pub(super) seed: u64,
    pub(super) epoch: u64,
    pub(super) sample: usize,
}

impl Showing {
    fn key(self, purpose: Purpose) -> Key {
        Key::new(self.seed, purpose).with(self.epoch).with(self.sample as u64)
    }
}

impl Recipe {
    /// Whether the recipe can be followed with these sizes and this normalisation.
    ///
    /// # Errors
    /// [`DataError::Geometry`] if parts of an image are to be padded, or to have a mean image, which
    /// lies over a whole frame.
    pub fn check(
        &self,
        geometry: &Geometry,
        normalisation: &Normalisation,
    ) -> Result<(), DataError> {
        let pad = geometry.pad;
        let reason = match self.crop {
            CropAt::Part if pad > 0 => {
                format!("a random part of an image is not padded; set pad to 0, not {pad}")
            }
            CropAt::Part if normalisation.mean_image.is_some() => {
                "random parts of images have no mean image; subtract a mean colour".into()
            }
            _ => return Ok(()),
        };
        Err(DataError::Geometry { reason })
    }

    /// What this showing needs of a `width` x `height` image; `None` where that is its frame as it
    /// is.
    pub(super) fn drawing(
        &self,
        geometry: &Geometry,
        (width, height): (u32, u32),
        showing: Showing,
    ) -> Option<Drawing> {
        if self.crop == CropAt::Part {
            let part = Part::random(width, height, showing.key(Purpose::Crop));
            return Some(Drawing::whole(Cover::part(geometry.crop, part)));
        }
        geometry.drawing(width, height, |slack| Needed::Window(self.window(slack, showing)))
    }

    /// The window of this showing, where windows can move by `slack`.
    pub(super) fn window(&self, slack: (u32, u32), showing: Showing) -> Window {
        let (left, top) = match self.crop {
            CropAt::Part => (0, 0),
            CropAt::Centre => (centre(slack.0), centre(slack.1)),
            CropAt::Random => {
                let key = showing.key(Purpose::Crop);
                let draw = |index, slack| key.below(index, u64::from(slack) + 1) as u32;
                (draw(0, slack.0), draw(1, slack.1))
            }
        };
        let mirrored = match self.flip {
            Flip::Never => false,
            Flip::Random => showing.key(Purpose::Flip).bits(0) >> 63 == 1,
        };
        Window { left, top, mirrored }
    }

    /// The colour shift of this showing in grey levels.
    pub(super) fn shift(&self, showing: Showing) -> [f32; 3] {
        self.lighting.map_or([0.0; 3], |lighting| lighting.shift(showing.key(Purpose::Lighting)))
    }
}
