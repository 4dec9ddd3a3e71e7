//! From pixels as bytes to the network's input on the GPU: `finish.cu`, with the result of its twin
//! [`Finish`](crate::kernels::finish::Finish) bit for bit.
//!
//! The windows and colour shifts are drawn on the host; this module does not know where they come
//! from.

use super::error::CudaError;
use super::launch::{Engine, Launch};
use super::memory::{Slice, SliceMut, argument};
use super::program::{CudaReal, Program, Source};

/// Images as bytes and what is to become of them, as in
/// [`Finish`](crate::kernels::finish::Finish).
#[derive(Clone, Copy, Debug)]
pub struct Finish<'a> {
    /// `[n, crop, crop, 3]`.
    pub pixels: Slice<'a, u8>,
    /// The side of the output, in pixels.
    pub crop: usize,
    /// `[n, 5]`: left, top, width, height and 1 if mirrored.
    pub windows: Slice<'a, i32>,
    /// `[n, 3]`.
    pub offsets: Slice<'a, f32>,
    /// Red first.
    pub scale: [f32; 3],
}

/// `out[n, y, x, c] = pixel * scale_c + offset_nc`, `[n, crop, crop, 3]`; zero outside the image.
///
/// # Errors
/// If the kernel cannot be compiled or started, or an array is not aligned to its vectors.
///
/// # Panics
/// If the lengths do not match.
pub fn finish<T: CudaReal>(
    on: &dyn Engine,
    images: &Finish<'_>,
    out: &mut SliceMut<'_, T>,
) -> Result<(), CudaError> {
    let Finish { pixels, crop, windows, offsets, scale } = *images;
    let num_images = windows.len() / 5;
    assert_eq!(pixels.len(), num_images * crop * crop * 3, "finish: the pixels");
    assert_eq!(windows.len(), num_images * 5, "finish: five numbers for each image");
    assert_eq!(offsets.len(), num_images * 3, "finish: an offset for each image");
    assert_eq!(out.len(), pixels.len(), "finish: the output");
    // Two vectors: one would not make up for what a thread computes before it reads.
    let values_of_thread = 256 / T::BITS;
    out.check_aligned(values_of_thread as usize / 2)?;
    let constants = [values_of_thread, crop as u32];
    let num_values = u32::try_from(out.len()).unwrap_or_else(|_| {
        panic!("{num_images} images do not fit one launch; use a smaller batch")
    });
    on.launch(&Launch::over(
        out.len().div_ceil(values_of_thread as usize),
        Program::new::<T>(Source::Finish, &constants),
        c"finish",
        &[
            pixels.argument(),
            windows.argument(),
            offsets.argument(),
            out.argument(),
            argument(&num_values),
            argument(&scale),
        ],
    ))
}
