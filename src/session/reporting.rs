//! From a rank's steps to the metrics.
//!
//! What the host knows of a step when it has asked for it waits here for what the device says of it, which
//! on a GPU comes a step later.

use std::collections::VecDeque;

use anyhow::{Context, Result};

use crate::data::Stages;
use crate::metrics::{Metrics, Phase, StepReport};
use crate::train::{StepDone, Worker};

/// What the host knows of a step.
pub(super) struct Noted {
    pub(super) step: u64,
    pub(super) num_images: usize,
    pub(super) lr: f64,
    pub(super) wait_ms: f64,
    pub(super) step_ms: f64,
    pub(super) num_queued: usize,
    pub(super) loading: Stages,
}

/// The steps of a rank that are not in the metrics yet, the oldest first.
#[derive(Default)]
pub(super) struct Notes(VecDeque<Noted>);

impl Notes {
    pub(super) fn add(&mut self, noted: Noted) {
        self.0.push_back(noted);
    }

    /// Hands a step to the metrics. The columns of a replica see the same loss, so one of them speaks.
    ///
    /// # Errors
    /// If the step was not noted, or a record cannot be written.
    pub(super) fn report(
        &mut self,
        metrics: &Metrics,
        worker: &Worker,
        done: Option<StepDone>,
    ) -> Result<()> {
        let Some(done) = done else { return Ok(()) };
        let noted = self.0.pop_front().filter(|noted| noted.step == done.step);
        let noted = noted.context("a step was reported out of turn: this is a defect")?;
        if worker.place.column != 0 {
            return Ok(());
        }
        let mut phases = done.phases;
        phases.add_ms(Phase::Wait, noted.wait_ms);
        metrics.step(StepReport {
            step: done.step,
            replica: worker.place.replica,
            loss_part: done.loss_part,
            num_images: noted.num_images,
            lr: noted.lr,
            step_ms: noted.step_ms,
            wire_bytes: done.wire_bytes,
            phases,
            num_queued: noted.num_queued,
            loading: noted.loading,
        })
    }
}
