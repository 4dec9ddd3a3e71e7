//! What is subtracted from pixels and what they are divided by.

use std::sync::Arc;

use super::error::DataError;
use super::mean_image::MeanImage;

/// What is subtracted from pixels and what they are divided by, in grey levels (0 to 255), red first.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalisation {
    /// Subtracted from every pixel, unless there is a mean image. Padding has this colour.
    pub mean: [f32; 3],
    /// Divides what remains; 1 as in the paper, which only subtracts the mean.
    pub std: [f32; 3],
    /// Subtracted from the frame pixel by pixel (§2).
    pub mean_image: Option<Arc<MeanImage>>,
}

impl Normalisation {
    /// A mean colour and deviations.
    #[must_use]
    pub const fn new(mean: [f32; 3], std: [f32; 3]) -> Self {
        Self { mean, std, mean_image: None }
    }

    /// What pixels are multiplied by, red first.
    pub(super) fn scale(&self) -> [f32; 3] {
        self.std.map(|std| 1.0 / std)
    }

    /// Whether every number is finite and every deviation positive.
    ///
    /// # Errors
    /// [`DataError::Geometry`] with the numbers.
    pub fn check(&self) -> Result<(), DataError> {
        let ok = self.mean.iter().all(|mean| mean.is_finite())
            && self.std.iter().all(|std| std.is_finite() && *std > 0.0);
        if ok {
            return Ok(());
        }
        let Self { mean, std, .. } = self;
        let reason = format!("mean {mean:?} must be finite and std {std:?} finite and positive");
        Err(DataError::Geometry { reason })
    }

    /// Whether a frame of this size can be normalised.
    ///
    /// # Errors
    /// [`DataError::Geometry`] if there is a mean image of another size.
    pub(super) fn check_frame(&self, width: u32, height: u32) -> Result<(), DataError> {
        match &self.mean_image {
            Some(mean) if (mean.width(), mean.height()) != (width, height) => {
                let reason = format!(
                    "the mean image is {}x{} and an image to subtract it from {width}x{height}; resize \
                     images to one size, or subtract a mean colour",
                    mean.width(),
                    mean.height(),
                );
                Err(DataError::Geometry { reason })
            }
            _ => Ok(()),
        }
    }
}
