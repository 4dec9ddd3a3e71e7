//! What a step has to say, and when it can be read.
//!
//! On a CPU a step is done when its call returns. A GPU works behind the host and would idle if the host
//! stopped in the middle of each step to read the loss. So the loss travels to the host behind the forward
//! pass, and a step is reported when the next one has been asked for: the host then waits for the former
//! while the GPU has all of the latter before it.

use anyhow::Result;
use tch::{Device, Tensor};

use crate::metrics::PhaseTimes;
use crate::stopwatch::Timed;

/// What one rank has to say of a step.
#[derive(Clone, Copy, Debug)]
pub struct StepDone {
    /// Which step.
    pub step: u64,
    /// This replica's part of the mean loss over the global batch.
    pub loss_part: f64,
    /// Payload bytes this rank has sent.
    pub wire_bytes: u64,
    /// What took how long.
    pub phases: PhaseTimes,
}

/// When a step is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reporting {
    /// By its own call, which costs nothing on a CPU.
    AtOnce,
    /// By the call of the next step, or by [`settle`](super::Worker::settle).
    StepLate,
}

impl Reporting {
    /// What does not stop `device`.
    #[must_use]
    pub fn on(device: Device) -> Self {
        if device == Device::Cpu { Self::AtOnce } else { Self::StepLate }
    }
}

/// A loss that is known, or on its way to the host.
pub(super) enum LossPart {
    Known(f64),
    Sent(Tensor),
}

impl LossPart {
    pub(super) fn of(value: &Tensor, reporting: Reporting) -> Result<Self> {
        Ok(match reporting {
            Reporting::AtOnce => Self::Known(value.f_double_value(&[])?),
            // To pinned memory, as libtorch makes it for copies that are not to be waited for.
            Reporting::StepLate => {
                Self::Sent(value.f_to_device_(Device::Cpu, value.kind(), true, false)?)
            }
        })
    }

    /// The value, if it is known to be no number.
    pub(super) fn bad(&self) -> Option<f64> {
        match self {
            Self::Known(value) => Some(*value).filter(|value| !value.is_finite()),
            Self::Sent(_) => None,
        }
    }

    /// The value, once its step is done.
    pub(super) fn read(&self) -> Result<f64> {
        match self {
            Self::Known(value) => Ok(*value),
            Self::Sent(value) => Ok(value.f_double_value(&[])?),
        }
    }
}

/// A step that has been asked for and not been reported.
pub(super) struct Asked {
    pub(super) step: u64,
    pub(super) loss_part: LossPart,
    pub(super) wire_bytes: u64,
    pub(super) times: Timed,
}

/// The steps of a rank that are to be reported.
pub struct Reports {
    when: Reporting,
    last: Option<Asked>,
}

impl Reports {
    /// None yet.
    #[must_use]
    pub fn new(when: Reporting) -> Self {
        Self { when, last: None }
    }

    /// When they are due.
    #[must_use]
    pub fn when(&self) -> Reporting {
        self.when
    }

    /// Takes a step that has been asked for, and returns the one that is due.
    pub(super) fn next(&mut self, asked: Asked) -> Option<Asked> {
        match self.when {
            Reporting::AtOnce => Some(asked),
            Reporting::StepLate => self.last.replace(asked),
        }
    }

    /// The last step, if it is not yet reported.
    pub(super) fn rest(&mut self) -> Option<Asked> {
        self.last.take()
    }
}
