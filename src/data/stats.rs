//! What preparing images has to know of a training split: its colours, and its mean image.
//!
//! Fitted once by [`Fit`] and kept in a small file with the data, or with the model. The sums are
//! exact and the rest follows from them, so the file depends on nothing but the images and the
//! settings. What the numbers are used for is decided elsewhere.

mod file;
mod fit;

use std::sync::Arc;

use super::mean_image::MeanImage;
use super::moments::{ColourStatistics, Moments};

pub use fit::Fit;

/// The statistics of a training split, over its frames.
#[derive(Clone, Debug, PartialEq)]
pub struct Stats {
    /// The images in it.
    pub num_images: u64,
    /// The side of the frames: see [`Geometry`](super::Geometry).
    pub resize: u32,
    /// The sums over pixels.
    pub moments: Moments,
    /// What follows from the sums.
    pub colours: ColourStatistics,
    /// The mean of the frames, if they are all of one size.
    pub mean_image: Option<Arc<MeanImage>>,
}

impl Stats {
    /// What the file is called in a data folder and in a checkpoint.
    pub const FILE: &str = "alexnet-stats.safetensors";
}
