//! Local response normalisation on the GPU: `lrn.cu` beside [`Lrn`].

use super::error::CudaError;
use super::launch::{Engine, Launch};
use super::memory::{Slice, SliceMut, argument};
use super::program::{CudaReal, Program, Source};
use crate::kernels::lrn::Lrn;
use crate::kernels::real::{Real, Wide};

/// `k`, `alpha` and `beta`, as the sources' `Rule` has them.
pub(super) fn rule<T: CudaReal>(lrn: Option<&Lrn>) -> [T::Wide; 3] {
    let lrn = lrn.unwrap_or(&Lrn::PAPER);
    [lrn.k, lrn.alpha, lrn.beta].map(<T as Real>::Wide::from_f64)
}

/// `LRN_SIZE` and `THREE_QUARTERS`; a size of 0 is no normalisation.
pub(super) fn constants(lrn: Option<&Lrn>) -> [u32; 2] {
    let size = lrn.map_or(0, |lrn| lrn.size as u32);
    [size, u32::from(lrn.unwrap_or(&Lrn::PAPER).has_three_quarters())]
}

/// Normalises `x` into `y`, both [pixels, channels], within each of `groups` equal groups.
///
/// # Errors
/// If the kernel cannot be compiled or started, or an array is not aligned to its vectors.
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
    on.launch(&Launch::over(
        num_chunks,
        program::<T>(lrn, channels, groups, chunk),
        c"forward",
        &[
            x.argument(),
            y.argument(),
            argument(&(num_chunks as u32)),
            argument(&rule::<T>(Some(lrn))),
        ],
    ))
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
    on.launch(&Launch::over(
        num_chunks,
        program::<T>(lrn, channels, groups, chunk),
        c"backward",
        &[
            x.argument(),
            dy.argument(),
            dx.argument(),
            argument(&(num_chunks as u32)),
            argument(&rule::<T>(Some(lrn))),
        ],
    ))
}

fn program<T: CudaReal>(lrn: &Lrn, channels: usize, groups: usize, chunk: u32) -> Program {
    let [size, three_quarters] = constants(Some(lrn));
    let (channels, group) = (channels as u32, (channels / groups) as u32);
    Program::new::<T>(Source::Lrn, &[chunk, size, three_quarters, channels, group])
}
