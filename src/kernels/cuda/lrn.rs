//! Local response normalisation on the GPU: `lrn.cu` beside [`Lrn`].

use super::error::CudaError;
use super::launch::{Engine, Launch, blocks};
use super::memory::{Slice, SliceMut, argument};
use super::program::{CudaReal, Program, Source};
use crate::kernels::lrn::Lrn;
use crate::kernels::real::{Real, Wide};

const THREADS: u32 = 128;

/// `k`, `alpha` and `beta`, as the sources' `Rule` has them.
pub(super) fn rule<T: CudaReal>(lrn: Option<&Lrn>) -> [T::Wide; 3] {
    let lrn = lrn.unwrap_or(&Lrn::PAPER);
    [lrn.k, lrn.alpha, lrn.beta].map(<T as Real>::Wide::from_f64)
}

/// Normalises `x` into `y`, both [pixels, channels], within each of `groups` equal groups.
///
/// # Errors
/// If the kernel cannot be compiled or started, or an array is not aligned to 16 bytes.
///
/// # Panics
/// As [`Lrn::forward`].
pub fn forward<T: CudaReal>(
    on: &dyn Engine,
    lrn: &Lrn,
    x: Slice<'_, T>,
    y: &mut SliceMut<'_, T>,
    channels: usize,
    groups: usize,
) -> Result<(), CudaError> {
    lrn.check(&[x.len(), y.len()], channels, groups);
    let chunk = T::chunk(8, channels / groups);
    x.check_aligned(chunk as usize)?;
    y.check_aligned(chunk as usize)?;
    let num_chunks = x.len() / chunk as usize;
    on.launch(&Launch {
        program: program::<T>(lrn, channels, groups, chunk),
        entry: c"forward",
        grid: [blocks(num_chunks, THREADS), 1],
        threads: THREADS,
        arguments: &[
            x.argument(),
            y.argument(),
            argument(&(num_chunks as u32)),
            argument(&rule::<T>(Some(lrn))),
        ],
    })
}

/// The gradient `dx` of the input, from the forward input `x` and the gradient `dy` of the output.
///
/// # Errors
/// As [`forward`].
///
/// # Panics
/// As [`Lrn::backward`].
pub fn backward<T: CudaReal>(
    on: &dyn Engine,
    lrn: &Lrn,
    x: Slice<'_, T>,
    dy: Slice<'_, T>,
    dx: &mut SliceMut<'_, T>,
    channels: usize,
    groups: usize,
) -> Result<(), CudaError> {
    lrn.check(&[x.len(), dy.len(), dx.len()], channels, groups);
    let chunk = T::chunk(if T::BITS == 16 { 16 } else { 8 }, channels / groups);
    [x, dy].iter().try_for_each(|x| x.check_aligned(chunk as usize))?;
    dx.check_aligned(chunk as usize)?;
    let num_chunks = x.len() / chunk as usize;
    on.launch(&Launch {
        program: program::<T>(lrn, channels, groups, chunk),
        entry: c"backward",
        grid: [blocks(num_chunks, THREADS), 1],
        threads: THREADS,
        arguments: &[
            x.argument(),
            dy.argument(),
            dx.argument(),
            argument(&(num_chunks as u32)),
            argument(&rule::<T>(Some(lrn))),
        ],
    })
}

fn program<T: CudaReal>(lrn: &Lrn, channels: usize, groups: usize, chunk: u32) -> Program {
    let three_quarters = u32::from(lrn.beta == 0.75);
    let (channels, group) = (channels as u32, (channels / groups) as u32);
    let constants = [THREADS, chunk, lrn.size as u32, three_quarters, channels, group];
    Program::new::<T>(Source::Lrn, &constants)
}
