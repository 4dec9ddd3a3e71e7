//! Which window of an image the network sees, and how it is varied in training.
//!
//! Paper: the shorter side is resized to 256 and the central 256x256 square kept (§2); training
//! takes a random crop of it and its reflection, and shifts its colours (§4.1). torchvision's recipe
//! takes a random part of the whole image instead. Every draw is keyed by (seed, epoch, image), so
//! it does not depend on batches or threads. The pixels themselves are handled elsewhere.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::cover::{Cover, Drawing, Needed, Part, Window, centre};
use super::error::DataError;
use super::geometry::Geometry;
use super::lighting::Lighting;
use super::normalisation::Normalisation;
use crate::random::{Key, Purpose};

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
    pub fn variation(self, lighting: impl Into<Lighting>) -> Variation {
        let (crop, flip, lighting) = match self {
            Self::Paper => (CropAt::Random, Flip::Random, Some(lighting.into())),
            Self::Torchvision => (CropAt::Part, Flip::Random, None),
            Self::CropFlip => (CropAt::Random, Flip::Random, None),
            Self::Flip => (CropAt::Centre, Flip::Random, None),
            Self::None => (CropAt::Centre, Flip::Never, None),
        };
        Variation { crop, flip, lighting }
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
pub struct Variation {
    /// The position of the crop.
    pub crop: CropAt,
    /// Reflection.
    pub flip: Flip,
    /// Colour noise, if any.
    pub lighting: Option<Lighting>,
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

impl Variation {
    /// Whether images can be varied so with these sizes and this normalisation.
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
