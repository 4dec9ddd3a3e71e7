//! The lines of the file, field by field.

use serde::Serialize;

use super::PhaseTimes;
use crate::data::StageTimes;

#[derive(Serialize)]
pub(super) struct StepRecord {
    pub(super) kind: &'static str,
    /// Finished steps of the run.
    pub(super) step: u64,
    pub(super) epoch: u64,
    pub(super) loss: f64,
    pub(super) lr: f64,
    pub(super) img_per_s: f64,
    pub(super) wait_share: f64,
    /// The mean number of batches ready when a step asked for one: near 0, the loader is too slow.
    pub(super) queued: f64,
    pub(super) wire_bytes: u64,
    pub(super) ms: PhaseTimes,
    /// Microseconds of a decoding thread for one image.
    pub(super) loader_us: StageTimes,
}

#[derive(Serialize)]
pub(super) struct EvalRecord {
    pub(super) kind: &'static str,
    pub(super) step: u64,
    pub(super) epoch: u64,
    pub(super) top1: f64,
    pub(super) top5: f64,
    pub(super) loss: f64,
    pub(super) num_images: u64,
    pub(super) seconds: f64,
    pub(super) lr: f64,
}
