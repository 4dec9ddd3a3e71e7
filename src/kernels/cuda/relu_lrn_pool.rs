//! ReLU, normalisation and max pooling on the GPU: `relu_lrn_pool.cu` beside
//! [`ReluLrnPool`].

use super::error::CudaError;
use super::launch::{Engine, Launch};
use super::lrn::{constants, rule};
use super::memory::{Slice, SliceMut, argument};
use super::program::{CudaReal, Program, Source};
use crate::kernels::pool::Map;
use crate::kernels::relu_lrn_pool::ReluLrnPool;
use crate::kernels::stacks::Stacks;

/// Threads that keep a large GPU busy; with fewer, forward cuts the columns of outputs shorter.
const ENOUGH_THREADS: usize = 1 << 17;

/// A convolution's output, of shape `map`.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a, T> {
    /// The elements.
    pub a: Slice<'a, T>,
    /// What each channel still lacks, if it does; its sums with the elements are rounded to elements.
    pub bias: Option<Slice<'a, T>>,
    /// The shape if its channels lay side by side.
    pub map: Map,
    /// How they lie, here and in the pooled map and its positions.
    pub stacks: Stacks,
}

impl<T: CudaReal> Input<'_, T> {
    /// The bias as kernels take it.
    fn bias_argument(&self) -> Slice<'_, T> {
        self.bias.unwrap_or_else(Slice::none)
    }

    fn check(&self, chunk: u32) -> Result<(), CudaError> {
        let Some(bias) = &self.bias else { return Ok(()) };
        assert_eq!(bias.len(), self.map.channels, "relu, lrn, pool: a bias for each channel");
        bias.check_aligned(chunk as usize)
    }
}

/// The pooled `y` and the positions in the windows of the convolution's output.
///
/// # Errors
/// If the kernel cannot be compiled or started, or an array is not aligned to its vectors.
///
/// # Panics
/// As [`ReluLrnPool::forward`], or if stacks cut a group of the normalisation.
pub fn forward<T: CudaReal>(
    on: &dyn Engine,
    kernel: &ReluLrnPool,
    input: Input<'_, T>,
    y: &mut SliceMut<'_, T>,
    argmax: &mut SliceMut<'_, u8>,
) -> Result<(), CudaError> {
    let output = kernel.check(input.map, input.a.len(), [y.len(), argmax.len()]);
    let enough = ENOUGH_THREADS / strip_threads::<T>(kernel, &input).max(1);
    forward_in_strips(on, kernel, input, y, argmax, enough.clamp(1, output.height))
}

/// [`forward`] with every column of outputs cut into about `num_strips`. A thread computes a strip from
/// top to bottom: fewer strips share more rows, more of them keep more threads busy.
///
/// # Errors
/// As [`forward`].
///
/// # Panics
/// As [`forward`], or if the number is 0.
pub(super) fn forward_in_strips<T: CudaReal>(
    on: &dyn Engine,
    kernel: &ReluLrnPool,
    input: Input<'_, T>,
    y: &mut SliceMut<'_, T>,
    argmax: &mut SliceMut<'_, u8>,
    num_strips: usize,
) -> Result<(), CudaError> {
    let Input { a, map, .. } = input;
    let output = kernel.check(map, a.len(), [y.len(), argmax.len()]);
    let chunk = forward_chunk::<T>(kernel, &input);
    check_aligned(chunk, [a, y.as_slice()], argmax.as_slice())?;
    input.check(chunk)?;
    let strip = output.height.div_ceil(num_strips);
    let num_threads = strip_threads::<T>(kernel, &input) * output.height.div_ceil(strip);
    on.launch(&Launch::over(
        num_threads,
        program(kernel, &input, chunk),
        c"forward",
        &[
            a.argument(),
            input.bias_argument().argument(),
            y.argument(),
            argmax.argument(),
            argument(&(num_threads as u32)),
            argument(&(map.num_images as u32)),
            argument(&(strip as i32)),
            argument(&rule::<T>(kernel.lrn.as_ref())),
        ],
    ))
}

/// The channels of a forward thread: 16 bytes, and not more registers than fit.
fn forward_chunk<T: CudaReal>(kernel: &ReluLrnPool, input: &Input<'_, T>) -> u32 {
    T::chunk(if T::BITS == 16 { 8 } else { 4 }, side_by_side(kernel, input))
}

/// The threads of forward if each computes a column of outputs from top to bottom.
fn strip_threads<T: CudaReal>(kernel: &ReluLrnPool, input: &Input<'_, T>) -> usize {
    let map = input.map;
    let chunks = map.channels / forward_chunk::<T>(kernel, input) as usize;
    map.num_images * chunks * kernel.pool.output(map).width
}

/// The gradient `da` of the convolution's output, from that output, the gradient `dy` of the pooled
/// output and the positions that forward wrote. That of a bias is its sum over all pixels.
///
/// # Errors
/// As [`forward`].
///
/// # Panics
/// As [`forward`].
pub fn backward<T: CudaReal>(
    on: &dyn Engine,
    kernel: &ReluLrnPool,
    input: Input<'_, T>,
    dy: Slice<'_, T>,
    argmax: Slice<'_, u8>,
    da: &mut SliceMut<'_, T>,
) -> Result<(), CudaError> {
    let Input { a, map, .. } = input;
    kernel.check(map, a.len(), [dy.len(), argmax.len()]);
    assert_eq!(a.len(), da.len(), "relu, lrn, pool: the gradient is not of shape {map:?}");
    // A thread reads twice a window's reach beyond its chunk on each side, and computes the denominators
    // of once the reach: the longer the chunk, the smaller their share.
    let chunk = T::chunk(if T::BITS == 16 { 16 } else { 8 }, side_by_side(kernel, &input));
    check_aligned(chunk, [a, dy], argmax)?;
    da.check_aligned(chunk as usize)?;
    input.check(chunk)?;
    // A thread computes the pixels from one window's beginning to the next's, and reads the windows over them once.
    let cells = map.num_images * map.height * map.width.div_ceil(kernel.pool.stride);
    let num_threads = cells * map.channels / chunk as usize;
    on.launch(&Launch::over(
        num_threads,
        program(kernel, &input, chunk),
        c"backward",
        &[
            a.argument(),
            input.bias_argument().argument(),
            dy.argument(),
            argmax.argument(),
            da.argument(),
            argument(&(num_threads as u32)),
            argument(&(map.num_images as u32)),
            argument(&rule::<T>(kernel.lrn.as_ref())),
        ],
    ))
}

fn group_channels(kernel: &ReluLrnPool, map: Map) -> usize {
    map.channels / kernel.groups
}

/// Channels that lie side by side and are normalised together: those a chunk may be of.
fn side_by_side<T: CudaReal>(kernel: &ReluLrnPool, input: &Input<'_, T>) -> usize {
    let Input { map, stacks, .. } = *input;
    let group = group_channels(kernel, map);
    let part = map.channels / stacks.input.max(stacks.output);
    assert!(
        kernel.lrn.is_none() || part.is_multiple_of(group),
        "relu, lrn, pool: {stacks:?} of {} channels cut groups of {group}",
        map.channels
    );
    group.min(part)
}

fn check_aligned<T: CudaReal>(
    chunk: u32,
    maps: [Slice<'_, T>; 2],
    argmax: Slice<'_, u8>,
) -> Result<(), CudaError> {
    maps.iter().try_for_each(|map| map.check_aligned(chunk as usize))?;
    argmax.check_aligned(chunk as usize)
}

/// What is compiled for maps of this height, width and depth.
fn program<T: CudaReal>(kernel: &ReluLrnPool, input: &Input<'_, T>, chunk: u32) -> Program {
    let map = input.map;
    let [size, three_quarters] = constants(kernel.lrn.as_ref());
    let sizes = [
        map.channels,
        group_channels(kernel, map),
        map.height,
        map.width,
        kernel.pool.window,
        kernel.pool.stride,
        input.stacks.input,
        input.stacks.output,
    ];
    let bias = u32::from(input.bias.is_some());
    let mut constants = vec![chunk, size, three_quarters, bias];
    constants.extend(sizes.map(|size| size as u32));
    Program::new::<T>(Source::ReluLrnPool, &constants)
}
