//! Where the workers' time goes: reading, decoding, resizing, finishing.
//!
//! Counted by every worker and summed while loading goes on. The module does not judge which stage
//! is too slow.

use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;

/// Time spent so far in each stage, all workers together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stages {
    /// Images finished, the bad ones included.
    pub num_images: u64,
    /// From the source's storage to bytes in memory.
    pub read: Duration,
    /// From bytes to pixels.
    pub decode: Duration,
    /// From pixels to the frame.
    pub resize: Duration,
    /// From the frame to the batch: windows, light, normalisation.
    pub finish: Duration,
}

impl Stages {
    /// The mean microseconds of each stage for one image; zeros where there was none.
    #[must_use]
    pub fn us_per_image(&self) -> StageTimes {
        let mean = |time: Duration| time.as_secs_f64() * 1e6 / self.num_images.max(1) as f64;
        let Self { read, decode, resize, finish, .. } = *self;
        let [read, decode, resize, finish] = [read, decode, resize, finish].map(mean);
        StageTimes { read, decode, resize, finish }
    }
}

/// One time for each stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StageTimes {
    /// See [`Stages::read`].
    pub read: f64,
    /// See [`Stages::decode`].
    pub decode: f64,
    /// See [`Stages::resize`].
    pub resize: f64,
    /// See [`Stages::finish`].
    pub finish: f64,
}

impl Sub for Stages {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            num_images: self.num_images - earlier.num_images,
            read: self.read - earlier.read,
            decode: self.decode - earlier.decode,
            resize: self.resize - earlier.resize,
            finish: self.finish - earlier.finish,
        }
    }
}

/// The sum over workers.
#[derive(Debug, Default)]
pub(super) struct StageTotals {
    num_images: AtomicU64,
    read: AtomicU64,
    decode: AtomicU64,
    resize: AtomicU64,
    finish: AtomicU64,
}

impl StageTotals {
    pub(super) fn add(&self, stages: Stages) {
        let nanoseconds = |time: Duration| time.as_nanos() as u64;
        self.num_images.fetch_add(stages.num_images, Relaxed);
        self.read.fetch_add(nanoseconds(stages.read), Relaxed);
        self.decode.fetch_add(nanoseconds(stages.decode), Relaxed);
        self.resize.fetch_add(nanoseconds(stages.resize), Relaxed);
        self.finish.fetch_add(nanoseconds(stages.finish), Relaxed);
    }

    pub(super) fn get(&self) -> Stages {
        let time = |total: &AtomicU64| Duration::from_nanos(total.load(Relaxed));
        Stages {
            num_images: self.num_images.load(Relaxed),
            read: time(&self.read),
            decode: time(&self.decode),
            resize: time(&self.resize),
            finish: time(&self.finish),
        }
    }
}
