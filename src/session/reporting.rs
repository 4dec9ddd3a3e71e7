//! From a rank's steps to the metrics.
//!
//! What the host knows of a step when it has asked for it waits here for what the device says of it, which
//! on a GPU comes a step later.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::data::Stages;
use crate::metrics::{Metrics, Phase, PhaseTimes, StepReport};
use crate::train::{Reporting, StepDone, Worker};

/// What the host knows of a step.
pub(super) struct Noted {
    pub(super) step: u64,
    /// When its images were asked for.
    pub(super) begun: Instant,
    pub(super) num_images: usize,
    pub(super) lr: f64,
    pub(super) wait_ms: f64,
    pub(super) step_ms: f64,
    pub(super) num_queued: usize,
    pub(super) loading: Stages,
}

/// The steps of a rank that are not in the metrics yet, the oldest first.
#[derive(Default)]
pub(super) struct Notes {
    steps: VecDeque<Noted>,
    last_report: Option<Instant>,
}

impl Notes {
    pub(super) fn add(&mut self, noted: Noted) {
        self.steps.push_back(noted);
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
        let noted = self.steps.pop_front().filter(|noted| noted.step == done.step);
        let noted = noted.context("a step was reported out of turn: this is a defect")?;
        let (now, last) = (Instant::now(), self.last_report);
        self.last_report = Some(now);
        if worker.place.column != 0 {
            return Ok(());
        }
        let mut phases = done.phases;
        let (wait_ms, step_ms) = match worker.reports.when() {
            Reporting::AtOnce => (noted.wait_ms, noted.step_ms),
            Reporting::StepLate => behind_the_host(noted.begun, last, now, &phases),
        };
        phases.add_ms(Phase::Wait, wait_ms);
        metrics.step(StepReport {
            step: done.step,
            replica: worker.place.replica,
            loss_part: done.loss_part,
            num_images: noted.num_images,
            lr: noted.lr,
            step_ms,
            wire_bytes: done.wire_bytes,
            phases,
            num_queued: noted.num_queued,
            loading: noted.loading,
        })
    }
}

/// How long the device waited for images, and how long the step took, in milliseconds.
///
/// The host asks for a step while the one before is computed, so its own waiting costs nothing as long as
/// the device is busy. A step lasts from one report to the next, unless the device had nothing to do in
/// between; what none of its phases accounts for was waiting.
fn behind_the_host(
    begun: Instant,
    last_report: Option<Instant>,
    now: Instant,
    phases: &PhaseTimes,
) -> (f64, f64) {
    let begun = last_report.map_or(begun, |last| last.max(begun));
    let step_ms = (now - begun).as_secs_f64() * 1e3;
    ((step_ms - phases.total_ms()).max(0.0), step_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_device_has_waited_when_it_was_not_busy_since_the_last_report() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let mut phases = PhaseTimes::default();
        phases.add_ms(Phase::Forward, 30.0);
        phases.add_ms(Phase::Backward, 60.0);
        // Asked for before the last report: steps follow each other.
        assert_eq!(behind_the_host(at(10), Some(at(100)), at(200), &phases), (10.0, 100.0));
        // Busy all the time, whatever the host waited for.
        assert_eq!(behind_the_host(at(10), Some(at(100)), at(190), &phases), (0.0, 90.0));
        // The first step, and the first after an evaluation.
        assert_eq!(behind_the_host(at(10), None, at(110), &phases), (10.0, 100.0));
        assert_eq!(behind_the_host(at(500), Some(at(100)), at(600), &phases), (10.0, 100.0));
    }
}
