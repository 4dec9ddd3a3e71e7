//! Batches for training: a global step names its images, their windows and their light.
//!
//! Step `s` belongs to epoch `s / steps_per_epoch`; an epoch has `len / batch` steps and its last
//! incomplete batch is dropped. An image that cannot be read is replaced by the next good one by
//! index, with that one's label and the draws of the image it replaces.

use std::sync::Arc;

use super::augment::{Showing, Variation};
use super::bad::BadImages;
use super::error::DataError;
use super::finish::Canvas;
use super::geometry::Geometry;
use super::loader::{Delivery, Filler, Loader, Plan, spawn};
use super::memory::Shape;
use super::normalisation::Normalisation;
use super::order::{EpochOrder, Order};
use super::source::Images;
use super::worker::{Loaded, Worker};

/// How many images in a row are tried before giving up.
const MAX_TRIES: usize = 16;

/// What training batches are made of.
#[derive(Clone)]
pub struct TrainLoader {
    /// The training split.
    pub source: Images,
    /// The order within an epoch.
    pub order: Order,
    /// From image to network input.
    pub geometry: Geometry,
    /// How images are varied.
    pub variation: Variation,
    /// What is subtracted, and what divides.
    pub normalisation: Normalisation,
    /// The seed of the run.
    pub seed: u64,
    /// Images in a global batch.
    pub batch: usize,
    /// The first step to deliver, from 0.
    pub start_step: u64,
    /// The step to end before; `None` goes on for ever.
    pub last_step: Option<u64>,
    /// The fraction of images that may be bad (see [`BadImages::new`]); 0.01 is a good default.
    pub max_bad_fraction: f64,
}

/// Whole batches of `batch` in a set of `len` images; the last, incomplete one is left out.
///
/// # Errors
/// [`DataError::BatchTooLarge`] if there is none.
///
/// # Panics
/// If the batch is zero.
pub fn steps_per_epoch(len: usize, batch: usize) -> Result<u64, DataError> {
    match len / batch {
        0 => Err(DataError::BatchTooLarge { batch, len }),
        num => Ok(num as u64),
    }
}

impl TrainLoader {
    /// Starts loading.
    ///
    /// # Errors
    /// When the batch is larger than the set, sizes do not fit, or threads cannot be started.
    ///
    /// # Panics
    /// If the batch is zero, a share reaches beyond it, or there is no consumer or worker.
    pub fn spawn(self, delivery: Delivery) -> Result<Loader, DataError> {
        self.geometry.check()?;
        self.variation.check(&self.geometry, &self.normalisation)?;
        self.normalisation.check()?;
        delivery.form.check(&self.normalisation)?;
        let (batch, len) = (self.batch, self.source.len());
        let steps_per_epoch = steps_per_epoch(len, batch)?;
        let filler = TrainFiller {
            bad: Arc::new(BadImages::new(len, self.max_bad_fraction)),
            order: EpochOrder::new(self.seed, self.start_step / steps_per_epoch, len, self.order),
            steps_per_epoch,
            next_step: self.start_step,
            offset: 0,
            config: self,
        };
        spawn(filler, batch, delivery)
    }
}

struct TrainFiller {
    config: TrainLoader,
    bad: Arc<BadImages>,
    steps_per_epoch: u64,
    next_step: u64,
    /// The order of the current epoch.
    order: EpochOrder,
    /// The position in the epoch of the current batch's first image.
    offset: usize,
}

impl TrainFiller {
    /// Loads `sample` or the next good image after it; returns the index of the one loaded.
    fn load(
        &self,
        worker: &mut Worker,
        showing: Showing,
    ) -> Result<(usize, Loaded<'_>), DataError> {
        let sample = showing.sample;
        let TrainLoader { geometry, variation, .. } = &self.config;
        let drawing = |width, height| variation.drawing(geometry, (width, height), showing);
        let source = &*self.config.source;
        let tries = MAX_TRIES.min(source.len());
        let mut first_reason = None;
        for index in (sample..sample + tries).map(|index| index % source.len()) {
            match worker.load(source, index, drawing) {
                Ok(loaded) => return Ok((index, loaded)),
                Err(reason) => {
                    first_reason.get_or_insert_with(|| reason.clone());
                    self.bad.note(source, index, reason);
                }
            }
        }
        let reason = first_reason.unwrap_or_default();
        Err(DataError::NoSubstitute { first: source.name(sample), tries, reason })
    }
}

impl Filler for TrainFiller {
    fn shape(&self) -> Shape {
        Shape { num_views: 1, num_values: self.config.geometry.num_values() }
    }

    fn normalisation(&self) -> &Normalisation {
        &self.config.normalisation
    }

    fn advance(&mut self) -> Option<Plan> {
        let step = self.next_step;
        if self.config.last_step.is_some_and(|last| step >= last) {
            return None;
        }
        self.next_step += 1;
        let epoch = step / self.steps_per_epoch;
        if epoch != self.order.epoch() {
            let TrainLoader { seed, order, source, .. } = &self.config;
            self.order = EpochOrder::new(*seed, epoch, source.len(), *order);
        }
        self.offset = (step % self.steps_per_epoch) as usize * self.config.batch;
        Some(Plan { step, epoch, num_images: self.config.batch })
    }

    fn fill(
        &self,
        worker: &mut Worker,
        position: usize,
        out: &mut impl Canvas,
    ) -> Result<Option<(i64, u32)>, DataError> {
        let TrainLoader { source, geometry, variation, normalisation, seed, .. } = &self.config;
        let sample = self.order.at(self.offset + position);
        let showing = Showing { seed: *seed, epoch: self.order.epoch(), sample };
        let (shown, loaded) = self.load(worker, showing)?;
        let shift = variation.shift(showing);
        let window = |slack| [variation.window(slack, showing)];
        worker.finish(loaded, geometry, normalisation, shift, window, out)?;
        Ok(Some((source.label(shown) as i64, shown as u32)))
    }

    fn bad(&self) -> &Arc<BadImages> {
        &self.bad
    }
}
