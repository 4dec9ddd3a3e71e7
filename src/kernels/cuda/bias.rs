//! A layer's bias on the GPU: `bias.cu` beside [`bias`](crate::kernels::bias).

use super::error::CudaError;
use super::launch::{Engine, Launch};
use super::memory::{Argument, Slice, SliceMut, argument};
use super::program::{CudaReal, Program, Source};
use crate::kernels::bias::check;

/// Blocks that read a large map, and so the partial sums of a channel: four for each of a Hopper's
/// multiprocessors.
const MOST_BLOCKS: usize = 528;

/// Rows for which a block is worth its while.
const ROWS_PER_BLOCK: usize = 64;

/// Channels that a block adds the partial sums of.
const ABREAST: u32 = 32;

/// How the channels of a row are shared among threads and blocks.
struct Split {
    channels: u32,
    /// As many as lie apart from each other.
    stacks: u32,
    /// Channels that a thread reads together: 16 bytes.
    chunk: u32,
    /// Chunks that a block sums.
    tile: u32,
}

impl Split {
    fn of<T: CudaReal>(num_channels: usize, stacks: usize) -> Self {
        assert!(
            stacks > 0 && num_channels.is_multiple_of(stacks),
            "bias: {num_channels} channels do not divide into {stacks} stacks"
        );
        let chunk = T::chunk(128 / T::BITS as usize, num_channels / stacks);
        let (channels, stacks) = (num_channels as u32, stacks as u32);
        let chunks = channels / chunk;
        Self { channels, stacks, chunk, tile: if chunks <= 64 { chunks } else { 32 } }
    }

    fn program<T: CudaReal>(&self) -> Program {
        let Self { channels, stacks, chunk, tile } = *self;
        Program::new::<T>(Source::Bias, &[chunk, channels, stacks, tile, ABREAST])
    }
}

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
    let split = Split::of::<T>(bias.len(), 1);
    rectify(on, &split, a.as_slice(), bias, a.argument())
}

/// [`relu`] of `a` into `y`, [stacks, rows, channels / stacks].
///
/// # Errors
/// As [`relu`].
///
/// # Panics
/// As [`relu`], or if `y` is not as long as `a`, or the channels do not divide into the stacks.
pub fn relu_into_stacks<T: CudaReal>(
    on: &dyn Engine,
    a: Slice<'_, T>,
    bias: Slice<'_, T>,
    y: &mut SliceMut<'_, T>,
    stacks: usize,
) -> Result<(), CudaError> {
    assert_eq!(a.len(), y.len(), "bias: the activations");
    let split = Split::of::<T>(bias.len(), stacks);
    y.check_aligned(split.chunk as usize)?;
    rectify(on, &split, a, bias, y.argument())
}

fn rectify<T: CudaReal>(
    on: &dyn Engine,
    split: &Split,
    a: Slice<'_, T>,
    bias: Slice<'_, T>,
    y: Argument<'_>,
) -> Result<(), CudaError> {
    let num_rows = check(a.len(), bias.len());
    let chunk = split.chunk as usize;
    a.check_aligned(chunk)?;
    bias.check_aligned(chunk)?;
    on.launch(&Launch::over(
        a.len() / chunk,
        split.program::<T>(),
        c"relu",
        &[a.argument(), bias.argument(), y, argument(&(num_rows as u32))],
    ))
}

/// The gradient `da`, [rows, channels], of what [`relu_into_stacks`] was given, from that of its result and the result,
/// both [stacks, rows, channels / stacks].
///
/// # Errors
/// As [`relu`].
///
/// # Panics
/// If the lengths differ or are not of whole rows, or the channels do not divide into the stacks.
pub fn unrelu_from_stacks<T: CudaReal>(
    on: &dyn Engine,
    [y, dy]: [Slice<'_, T>; 2],
    da: &mut SliceMut<'_, T>,
    num_channels: usize,
    stacks: usize,
) -> Result<(), CudaError> {
    assert!(y.len() == da.len() && dy.len() == da.len(), "bias: the gradients");
    let (num_rows, split) = (check(da.len(), num_channels), Split::of::<T>(num_channels, stacks));
    let chunk = split.chunk as usize;
    [y, dy, da.as_slice()].iter().try_for_each(|map| map.check_aligned(chunk))?;
    on.launch(&Launch::over(
        da.len() / chunk,
        split.program::<T>(),
        c"unrelu",
        &[y.argument(), dy.argument(), da.argument(), argument(&(num_rows as u32))],
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
    let split = Split::of::<T>(num_channels, 1);
    da.check_aligned(split.chunk as usize)?;
    on.launch(&Launch::of_blocks(
        [num_partial as u32, split.channels.div_ceil(split.chunk * split.tile)],
        split.program::<T>(),
        c"partial_sums",
        &[da.argument(), partial.argument(), argument(&(num_rows as u32))],
    ))?;
    on.launch(&Launch::of_blocks(
        [split.channels.div_ceil(ABREAST), 1],
        split.program::<T>(),
        c"sums",
        &[partial.argument(), db.argument(), argument(&(num_partial as u32))],
    ))
}
