//! Batches for evaluation: every image once, in the order of the source, in all its views.
//!
//! The last batch may be short. Every consumer gets every batch, with no images if its share lies
//! beyond a short batch's end, so that all replicas see the same number of batches. An image that
//! cannot be read is left out, never replaced, and counted in [`BadImages`]: the count of labels
//! delivered is the count to divide by.

use std::sync::Arc;

use super::bad::BadImages;
use super::error::DataError;
use super::finish::Canvas;
use super::geometry::Geometry;
use super::loader::{Delivery, Filler, Loader, Plan, spawn};
use super::memory::Shape;
use super::normalisation::Normalisation;
use super::source::Images;
use super::views::Views;
use super::worker::Worker;

/// What evaluation batches are made of.
#[derive(Clone)]
pub struct EvalLoader {
    /// The test split.
    pub source: Images,
    /// From image to network input.
    pub geometry: Geometry,
    /// What is subtracted, and what divides.
    pub normalisation: Normalisation,
    /// The crops of each image.
    pub views: Views,
    /// Images (not views) in a global batch.
    pub batch: usize,
    /// The bad images of the split, also those that other loaders of it have met: each is named once.
    pub bad: Arc<BadImages>,
}

impl EvalLoader {
    /// Starts loading. The shares together must cover the batch for every image to be seen.
    ///
    /// # Errors
    /// When sizes do not fit, or threads cannot be started.
    ///
    /// # Panics
    /// If the batch is zero, a share reaches beyond it, or there is no consumer or worker.
    pub fn spawn(self, delivery: Delivery) -> Result<Loader, DataError> {
        self.geometry.check()?;
        self.normalisation.check()?;
        delivery.form.check(&self.normalisation)?;
        assert!(self.batch > 0, "an evaluation batch has images");
        let batch = self.batch;
        spawn(EvalFiller { config: self, start: 0, end: 0 }, batch, delivery)
    }
}

struct EvalFiller {
    config: EvalLoader,
    /// The images of the current batch.
    start: usize,
    end: usize,
}

impl Filler for EvalFiller {
    fn shape(&self) -> Shape {
        let EvalLoader { views, geometry, .. } = &self.config;
        Shape { num_views: views.num(), num_values: geometry.num_values() }
    }

    fn normalisation(&self) -> &Normalisation {
        &self.config.normalisation
    }

    fn advance(&mut self) -> Option<Plan> {
        let (len, batch) = (self.config.source.len(), self.config.batch);
        self.start = self.end;
        self.end = len.min(self.start + batch);
        let num_images = self.end - self.start;
        let step = (self.start / batch) as u64;
        (num_images > 0).then_some(Plan { step, epoch: 0, num_images })
    }

    fn fill(
        &self,
        worker: &mut Worker,
        position: usize,
        out: &mut impl Canvas,
    ) -> Result<Option<(i64, u32)>, DataError> {
        let EvalLoader { source, geometry, normalisation, views, .. } = &self.config;
        let sample = self.start + position;
        let drawing = |width, height| geometry.drawing(width, height, |slack| views.needed(slack));
        let loaded = match worker.load(&**source, sample, drawing) {
            Ok(loaded) => loaded,
            Err(reason) => {
                self.config.bad.note(&**source, sample, reason);
                return Ok(None);
            }
        };
        let windows = |slack| views.windows(slack);
        worker.finish(loaded, geometry, normalisation, [0.0; 3], windows, out)?;
        Ok(Some((source.label(sample) as i64, sample as u32)))
    }

    fn bad(&self) -> &Arc<BadImages> {
        &self.config.bad
    }
}
