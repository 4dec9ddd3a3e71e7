//! The pass over a training split that fits its statistics.
//!
//! Every thread sums whole numbers over the images it happens to get, and the sums of all threads
//! are added up: neither their number nor the order of the images changes a bit of the result.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::Stats;
use crate::data::bad::BadImages;
use crate::data::cover::Needed;
use crate::data::error::DataError;
use crate::data::finish::Frame;
use crate::data::geometry::Geometry;
use crate::data::loader::pool;
use crate::data::mean_image::MeanImage;
use crate::data::moments::{Moments, Overflow};
use crate::data::source::Images;
use crate::data::worker::Worker;

/// What statistics are fitted to.
pub struct Fit {
    /// The training split.
    pub source: Images,
    /// The side that images are resized to, as in training; 0 keeps them as they are.
    pub resize: u32,
    /// How many images, evenly spaced over the split; `None` takes all.
    pub limit: Option<usize>,
    /// Threads that read and decode.
    pub workers: usize,
    /// The fraction of images that may be bad (see [`BadImages::new`]); they are left out.
    pub max_bad_fraction: f64,
}

impl Fit {
    /// The number of images that are looked at.
    #[must_use]
    pub fn num_images(&self) -> usize {
        let len = self.source.len();
        self.limit.map_or(len, |limit| limit.clamp(1, len))
    }

    /// Looks at every image once; `looked` is called after each, from any thread.
    ///
    /// # Errors
    /// When too many images are bad, or none is good.
    pub fn run(&self, looked: impl Fn() + Sync) -> Result<Stats, DataError> {
        let geometry = Geometry { resize: self.resize, pad: 0, crop: 1 };
        geometry.check()?;
        let num = self.num_images();
        let bad = BadImages::new(num, self.max_bad_fraction);
        let tallies: Vec<Mutex<Tally>> = (0..self.workers).map(|_| Mutex::default()).collect();
        pool(self.workers)?.install(|| {
            (0..num).into_par_iter().try_for_each(|position| {
                let thread = rayon::current_thread_index().unwrap_or(0);
                let index = position * self.source.len() / num;
                let mut tally = lock(&tallies[thread]);
                if let Err(reason) = tally.look(self, &geometry, index) {
                    bad.note(&*self.source, index, reason);
                    bad.check()?;
                }
                looked();
                Ok(())
            })
        })?;
        let mut total = Tally::default();
        for tally in &tallies {
            total.add(&lock(tally)).map_err(overflow)?;
        }
        total.stats(self)
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

fn overflow(overflow: Overflow) -> DataError {
    DataError::Statistics { reason: overflow.to_string() }
}

/// What one thread has seen, and its scratch memory.
#[derive(Default)]
struct Tally {
    worker: Worker,
    num_images: u64,
    moments: Moments,
    image: ImageSum,
}

impl Tally {
    fn look(&mut self, fit: &Fit, geometry: &Geometry, index: usize) -> Result<(), String> {
        let drawing = |width, height| geometry.drawing(width, height, |_| Needed::Frame);
        let loaded = self.worker.load(&*fit.source, index, drawing)?;
        let frame = self.worker.frame(loaded);
        self.moments.add(&Moments::of(frame.pixels)).map_err(|error| error.to_string())?;
        self.image.look(frame);
        self.num_images += 1;
        Ok(())
    }

    fn add(&mut self, other: &Self) -> Result<(), Overflow> {
        self.num_images += other.num_images;
        self.image.add(&other.image);
        self.moments.add(&other.moments)
    }

    fn stats(self, fit: &Fit) -> Result<Stats, DataError> {
        let Self { num_images, moments, image, .. } = self;
        let Some(colours) = moments.statistics() else {
            let reason = format!("none of the {} images can be read", fit.num_images());
            return Err(DataError::Statistics { reason });
        };
        let mean_image = image.mean(num_images).map(Arc::new);
        Ok(Stats { num_images, resize: fit.resize, moments, colours, mean_image })
    }
}

/// The sum of frames, as long as they are of one size.
#[derive(Default)]
enum ImageSum {
    #[default]
    Empty,
    Of {
        width: u32,
        height: u32,
        /// `[height, width, 3]`
        sums: Vec<u64>,
    },
    Mixed,
}

impl ImageSum {
    fn look(&mut self, frame: Frame<'_>) {
        if matches!(self, Self::Empty) {
            let Frame { width, height, pixels } = frame;
            *self = Self::Of { width, height, sums: vec![0; pixels.len()] };
        }
        match self {
            Self::Of { width, height, sums }
                if (*width, *height) == (frame.width, frame.height) =>
            {
                for (sum, &pixel) in sums.iter_mut().zip(frame.pixels) {
                    *sum += u64::from(pixel);
                }
            }
            _ => *self = Self::Mixed,
        }
    }

    fn add(&mut self, other: &Self) {
        match (&mut *self, other) {
            (_, Self::Empty) => {}
            (Self::Empty, Self::Of { width, height, sums }) => {
                *self = Self::Of { width: *width, height: *height, sums: sums.clone() };
            }
            (
                Self::Of { width, height, sums },
                Self::Of { width: other_width, height: other_height, sums: more },
            ) if (&*width, &*height) == (other_width, other_height) => {
                sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            }
            _ => *self = Self::Mixed,
        }
    }

    fn mean(self, num_images: u64) -> Option<MeanImage> {
        let Self::Of { width, height, sums } = self else { return None };
        let mean = |sum: u64| (sum as f64 / num_images as f64) as f32;
        Some(MeanImage::new(width, height, sums.into_iter().map(mean).collect()))
    }
}
