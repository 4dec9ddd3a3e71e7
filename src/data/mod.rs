//! From a folder of images to batches of `f32` pixels: read, decode, resize, crop, light, normalise.
//!
//! The stages, in order: [`Source`] (where images lie) → [`EpochOrder`] (which comes next) →
//! [`Decoder`] (RGB8) → [`Geometry`] and [`Recipe`] (which window, reflected or not, how lit) →
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
mod decode;
mod error;
mod eval;
mod finish;
mod folder;
mod generated;
#[cfg(any(test, fuzzing))]
pub mod hostile;
mod ilsvrc;
mod jpeg;
mod lighting;
mod loader;
mod matlab;
pub mod moments;
mod order;
pub mod packed;
mod pattern;
mod pickle;
mod pixels;
mod resample;
mod shards;
mod slot;
mod source;
mod stages;
mod tar_images;
mod train;
mod validation;
mod views;
mod worker;

#[cfg(test)]
mod tests;

pub use augment::{Augment, CropAt, Flip, Geometry, Recipe, Window};
pub use bad::BadImages;
pub use decode::{DecodeError, Decoder, Image};
pub use error::DataError;
pub use eval::EvalLoader;
pub use finish::{Frame, Normalisation};
pub use generated::{GeneratedSpec, generate};
pub use lighting::LightingScale;
pub use loader::{BatchReceiver, Delivery, Loader};
pub use order::{EpochOrder, Order};
pub use pixels::{Output, Pixels};
pub use slot::Batch;
pub use source::{Content, Images, Source, Split, kind, open, open_both};
pub use stages::{StageTimes, Stages};
pub use train::TrainLoader;
pub use views::{Views, load_views};
