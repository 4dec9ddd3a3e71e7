//! Dropout on the GPU: `dropout.cu` beside [`Dropout`], with the same masks bit for bit.

use std::ops::Range;

use super::error::CudaError;
use super::launch::{Engine, Launch};
use super::memory::{Slice, SliceMut, argument};
use super::program::{CudaReal, Program, Source};
use crate::kernels::dropout::Dropout;
use crate::kernels::real::{Real, Wide};
use crate::random::Key;

/// As [`Dropout::apply`], where the key of row `r` is `layer` with `first_row + r`.
///
/// # Errors
/// If the kernel cannot be compiled or started, or an array is not aligned to its vectors.
///
/// # Panics
/// As [`Dropout::apply`].
pub fn apply<T: CudaReal>(
    on: &dyn Engine,
    dropout: &Dropout,
    x: Slice<'_, T>,
    y: &mut SliceMut<'_, T>,
    units: Range<u64>,
    (layer, first_row): (Key, u64),
) -> Result<(), CudaError> {
    let num_units = dropout.check(x.len(), y.len(), &units);
    let chunk = T::chunk(128 / T::BITS as usize, num_units);
    x.check_aligned(chunk as usize)?;
    y.check_aligned(chunk as usize)?;
    let num_chunks = x.len() / chunk as usize;
    on.launch(&Launch::over(
        num_chunks,
        Program::new::<T>(Source::Dropout, &[chunk]),
        c"apply",
        &[
            x.argument(),
            y.argument(),
            argument(&(num_chunks as u32)),
            argument(&((num_units / chunk as usize) as u32)),
            argument(&layer.word()),
            argument(&first_row),
            argument(&units.start),
            argument(&dropout.threshold()),
            argument(&<T as Real>::Wide::from_f64(dropout.scale)),
        ],
    ))
}
