//! From a folder of images to batches of pixels: read, decode, resize, crop, and light and normalise or leave that
//! to a device ([`Unfinished`]).
//!
//! The stages, in order: [`Source`] (where images lie) → [`EpochOrder`] (which comes next) →
//! [`Decoder`] (RGB8) → [`Geometry`] and [`Variation`] (which window, reflected or not, how lit) →
//! [`Loader`] (threads, reused slots, bounded queues). A batch is a pure function of the
//! configuration, the seed and the step: the number of workers, shares or consumers, and the step
//! at which loading starts, change no byte of it.
//!
//! The module knows pixels, labels and positions within a batch. It refuses to know devices,
//! tensors, ranks and the configuration file.

mod archive;
mod augment;
mod bad;
mod braces;
mod cifar;
mod class_names;
mod cover;
mod decode;
mod error;
mod eval;
mod files;
mod finish;
mod folder;
mod generated;
mod geometry;
#[cfg(any(test, fuzzing))]
pub mod hostile;
mod ilsvrc;
mod jpeg;
mod large_pages;
mod layout;
mod lighting;
mod loader;
mod matlab;
mod mean_image;
mod memory;
pub mod moments;
mod normalisation;
mod order;
pub mod packed;
mod pattern;
mod pickle;
mod pixels;
mod random_part;
mod resample;
mod shards;
mod slot;
mod source;
mod stages;
mod stats;
mod tar_images;
mod train;
mod unfinished;
mod unscaled;
mod validation;
mod views;
mod worker;

#[cfg(test)]
mod tests;

pub use augment::{Augment, CropAt, Flip, Variation};
pub use bad::BadImages;
pub use cover::Window;
pub use decode::{DecodeError, Decoder, Image};
pub use error::DataError;
pub use eval::EvalLoader;
pub use finish::Frame;
pub use generated::{GeneratedSpec, generate};
pub use geometry::Geometry;
pub use layout::{home, kind, open, open_both};
pub use lighting::{Components, Lighting, LightingScale};
pub use loader::{BatchReceiver, Delivery, Loader, pool};
pub use mean_image::MeanImage;
pub(crate) use memory::zeros;
pub use normalisation::Normalisation;
pub use order::{EpochOrder, Order};
pub use pixels::{Form, Output, Pixels};
pub use slot::{Batch, Pinning};
pub use source::{Content, Images, Source, Split};
pub use stages::{StageTimes, Stages};
pub use stats::{Fit, Stats};
pub use train::{TrainLoader, steps_per_epoch};
pub use unfinished::Unfinished;
pub use views::{Views, load_views};
