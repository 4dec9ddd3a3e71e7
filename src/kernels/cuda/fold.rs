//! Space to depth on the GPU: `fold.cu` beside [`Fold`].

use super::error::CudaError;
use super::launch::{Engine, Launch};
use super::memory::{Slice, SliceMut, argument};
use super::program::{CudaReal, Program, Source};
use crate::kernels::fold::Fold;
use crate::kernels::pool::Map;

/// [`Fold::run`].
///
/// # Errors
/// If the kernel cannot be compiled or started, or an array is not aligned to its vectors.
///
/// # Panics
/// If a length does not match its shape.
pub fn fold<T: CudaReal>(
    on: &dyn Engine,
    kernel: &Fold,
    images: Slice<'_, T>,
    out: &mut SliceMut<'_, T>,
    map: Map,
) -> Result<(), CudaError> {
    let output = kernel.check(map, images.len(), out.len());
    let chunk = T::chunk(128 / T::BITS as usize, output.channels);
    out.check_aligned(chunk as usize)?;
    let sizes = [
        map.height,
        map.width,
        map.channels,
        kernel.stride,
        kernel.padding,
        kernel.rows,
        kernel.columns,
    ];
    let mut constants = vec![chunk];
    constants.extend(sizes.map(|size| size as u32));
    let num_threads = out.len() / chunk as usize;
    on.launch(&Launch::over(
        num_threads,
        Program::new::<T>(Source::Fold, &constants),
        c"fold",
        &[images.argument(), out.argument(), argument(&(num_threads as u32))],
    ))
}
