//! A layer's bias on the GPU: `bias.cu` beside [`bias`](crate::kernels::bias).

use super::error::CudaError;
use super::launch::{Engine, Launch};
use super::memory::{Slice, SliceMut, argument};
use super::program::{CudaReal, Program, Source};
use crate::kernels::bias::check;

/// Blocks that read a large map, and so the partial sums of a channel: four for each of a Hopper's
/// multiprocessors.
const MOST_BLOCKS: usize = 528;

/// Rows for which a block is worth its while.
const ROWS_PER_BLOCK: usize = 64;

/// `max(a + bias, 0)` in place for each row of `a`, [rows, channels]; the sums are rounded to elements.
///
/// # Errors
/// If the kernel cannot be compiled or started, or an array is not aligned to its vectors.
///
/// # Panics
/// If `a` is not rows of as many channels as there are biases.
pub fn relu<T: CudaReal>(
    on: &dyn Engine,
    a: &mut SliceMut<'_, T>,
    bias: Slice<'_, T>,
) -> Result<(), CudaError> {
    check(a.len(), bias.len());
    let chunk = chunk::<T>(bias.len());
    a.check_aligned(chunk as usize)?;
    bias.check_aligned(chunk as usize)?;
    let num_threads = a.len() / chunk as usize;
    on.launch(&Launch::over(
        num_threads,
        Program::new::<T>(Source::Bias, &[chunk, bias.len() as u32]),
        c"relu",
        &[a.argument(), bias.argument(), argument(&(num_threads as u32))],
    ))
}

/// The number of elements that [`gradient`] needs for partial sums.
#[must_use]
pub fn num_partial_sums(num_rows: usize, num_channels: usize) -> usize {
    num_blocks(num_rows) * num_channels
}

fn num_blocks(num_rows: usize) -> usize {
    num_rows.div_ceil(ROWS_PER_BLOCK).clamp(1, MOST_BLOCKS)
}

/// The gradient of the bias: the sums over all rows of `da`, [rows, channels], by way of `partial`.
///
/// # Errors
/// As [`relu`].
///
/// # Panics
/// As [`relu`], or if `partial` has not [`num_partial_sums`] elements.
pub fn gradient<T: CudaReal>(
    on: &dyn Engine,
    da: Slice<'_, T>,
    partial: &mut SliceMut<'_, T::Wide>,
    db: &mut SliceMut<'_, T>,
) -> Result<(), CudaError> {
    let num_rows = check(da.len(), db.len());
    let num_channels = db.len();
    let num_partial = num_blocks(num_rows);
    assert_eq!(partial.len(), num_partial * num_channels, "bias: the partial sums");
    let chunk = chunk::<T>(num_channels);
    da.check_aligned(chunk as usize)?;
    let program = Program::new::<T>(Source::Bias, &[chunk, num_channels as u32]);
    // As in bias.cu.
    let chunks = num_channels as u32 / chunk;
    let tile = if chunks <= 64 { chunks } else { 32 };
    on.launch(&Launch::of_blocks(
        [num_partial as u32, chunks.div_ceil(tile)],
        program,
        c"partial_sums",
        &[da.argument(), partial.argument(), argument(&(num_rows as u32))],
    ))?;
    on.launch(&Launch::of_blocks(
        [(num_channels as u32).div_ceil(32), 1],
        program,
        c"sums",
        &[partial.argument(), db.argument(), argument(&(num_partial as u32))],
    ))
}

/// Channels that a thread reads together: 16 bytes.
fn chunk<T: CudaReal>(num_channels: usize) -> u32 {
    T::chunk(128 / T::BITS as usize, num_channels)
}
