//! From pixels as bytes to the network's input on the GPU: `finish.cu`, the twin of the loader's last
//! pass, with the same fp32 result bit for bit.
//!
//! The windows and colour shifts are drawn on the host, by the same hash as for the CPU's pass; this
//! module does not know where they come from.

use super::error::CudaError;
use super::launch::{Engine, Launch};
use super::memory::{Slice, SliceMut, argument};
use super::program::{CudaReal, Program, Source};

/// Frames of equal size and what is cut from them.
#[derive(Clone, Copy, Debug)]
pub struct Frames<'a> {
    /// RGB8, `[n, height, width, 3]`.
    pub pixels: Slice<'a, u8>,
    /// Rows of a frame.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Per frame: left, top (both negative where a window begins in the padding), and whether the
    /// window is mirrored.
    pub windows: Slice<'a, [i32; 3]>,
    /// Per frame: (lighting - mean) / deviation, red first.
    pub offsets: Slice<'a, [f32; 3]>,
}

/// `out[n, y, x, c] = pixel * scale_c + offset_nc`, `[n, crop, crop, 3]`; zero outside the frame.
///
/// # Errors
/// If the kernel cannot be compiled or started, or an array is not aligned to its vectors.
///
/// # Panics
/// If the lengths do not match.
pub fn finish<T: CudaReal>(
    on: &dyn Engine,
    frames: &Frames<'_>,
    scale: [f32; 3],
    out: &mut SliceMut<'_, T>,
    crop: usize,
) -> Result<(), CudaError> {
    let num_frames = frames.windows.len();
    let Frames { pixels, height, width, windows, offsets } = *frames;
    assert_eq!(pixels.len(), num_frames * height * width * 3, "finish: the frames' pixels");
    assert_eq!(offsets.len(), num_frames, "finish: an offset for each frame");
    assert_eq!(out.len(), num_frames * crop * crop * 3, "finish: the output");
    let chunk = 128 / T::BITS;
    out.check_aligned(chunk as usize)?;
    let constants = [chunk, height as u32, width as u32, crop as u32];
    on.launch(&Launch::over(
        out.len().div_ceil(chunk as usize),
        Program::new::<T>(Source::Finish, &constants),
        c"finish",
        &[
            pixels.argument(),
            windows.argument(),
            offsets.argument(),
            out.argument(),
            argument(&(out.len() as u64)),
            argument(&scale),
        ],
    ))
}
