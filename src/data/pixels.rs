//! The element types of a batch, and the memory that holds one.
//!
//! `f32` is what every device takes; `bf16` is the same rounded once, half the bytes; `u8` is the
//! pixels themselves, a quarter, for whoever lights and normalises. The module does not know how
//! pixels get their values.

use clap::ValueEnum;
use half::bf16;

use super::error::DataError;
use super::memory::zeros;
use super::normalisation::Normalisation;

/// What a loader delivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Cropped and reflected, neither lit nor normalised. Padding is the mean colour, rounded.
    U8,
    /// Lit and normalised, rounded to nearest, ties to even.
    Bf16,
    /// Lit and normalised.
    #[default]
    F32,
}

/// What a loader delivers of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Pixels ready for the network.
    Finished(Output),
    /// Bytes, and what is left to do: see [`Unfinished`](super::Unfinished).
    Unfinished,
}

impl Form {
    /// The element type.
    pub(super) fn output(self) -> Output {
        match self {
            Self::Finished(output) => output,
            Self::Unfinished => Output::U8,
        }
    }

    /// Whether images can be delivered so.
    ///
    /// # Errors
    /// [`DataError::Geometry`] if a mean image is left to be subtracted.
    pub(super) fn check(self, normalisation: &Normalisation) -> Result<(), DataError> {
        match self {
            Self::Unfinished if normalisation.mean_image.is_some() => {
                let reason = "a mean image cannot be subtracted on the device; finish pixels in the \
                              loader, or subtract a mean colour";
                Err(DataError::Geometry { reason: reason.into() })
            }
            _ => Ok(()),
        }
    }
}

/// The pixels of a batch, `[n, crop, crop, 3]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Pixels {
    /// See [`Output::U8`].
    U8(Vec<u8>),
    /// See [`Output::Bf16`].
    Bf16(Vec<bf16>),
    /// See [`Output::F32`].
    F32(Vec<f32>),
}

/// Calls a function that is generic over the element type with the vector inside.
macro_rules! with_elements {
    ($pixels:expr, $elements:ident => $call:expr) => {
        match $pixels {
            Pixels::U8($elements) => $call,
            Pixels::Bf16($elements) => $call,
            Pixels::F32($elements) => $call,
        }
    };
}
pub(super) use with_elements;

impl Pixels {
    /// Zeros.
    ///
    /// # Errors
    /// [`DataError::NoMemory`].
    pub fn new(output: Output, len: usize) -> Result<Self, DataError> {
        Ok(match output {
            Output::U8 => Self::U8(zeros(len)?),
            Output::Bf16 => Self::Bf16(zeros(len)?),
            Output::F32 => Self::F32(zeros(len)?),
        })
    }

    /// The number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        with_elements!(self, elements => elements.len())
    }

    /// Whether there are no values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes the length, within the memory already there when it shrinks or grows back.
    pub(super) fn resize(&mut self, len: usize) {
        with_elements!(self, elements => elements.resize(len, Default::default()));
    }

    /// Copies `len` values from `from` to `to`.
    pub(super) fn copy_within(&mut self, from: usize, to: usize, len: usize) {
        with_elements!(self, elements => elements.copy_within(from..from + len, to));
    }
}

impl Default for Pixels {
    fn default() -> Self {
        Self::U8(Vec::new())
    }
}
