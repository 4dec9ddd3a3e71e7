//! The last pass over pixels: window, reflection, lighting, mean and deviation, and the cast.
//!
//! One read of the bytes and one write of the output. Per-channel factors are laid out as long as
//! a row, so the inner loop is one multiply-add per value without a branch. Large `f32` images are
//! streamed past the cache. It does not know where windows or shifts come from.

use half::bf16;

use super::augment::Window;
use super::error::DataError;
use crate::kernels::real::Real;
use crate::kernels::simd::{self, Kernel};
use crate::kernels::stream::{self, LINE, Stream};

/// Mean and deviation per channel (red, green, blue), in grey levels (0 to 255).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    /// Subtracted from every pixel.
    pub mean: [f32; 3],
    /// Divides what remains; 1 as in the paper, which only subtracts the mean.
    pub std: [f32; 3],
}

impl Normalisation {
    /// Whether every number is finite and every deviation positive.
    ///
    /// # Errors
    /// [`DataError::Geometry`] with the numbers.
    pub fn check(&self) -> Result<(), DataError> {
        let ok = self.mean.iter().all(|mean| mean.is_finite())
            && self.std.iter().all(|std| std.is_finite() && *std > 0.0);
        if ok {
            return Ok(());
        }
        let Self { mean, std } = self;
        let reason = format!("mean {mean:?} must be finite and std {std:?} finite and positive");
        Err(DataError::Geometry { reason })
    }
}

/// A picture windows are cut from.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// RGB8, `[height, width, 3]`.
    pub pixels: &'a [u8],
}

/// Factors and scratch of the pass, each a row of the output long.
#[derive(Debug, Default)]
pub(super) struct Finisher {
    factors: Factors,
    mirrored: Vec<u8>,
    padding: [u8; 3],
}

/// `out = pixel * scale + offset`, for every value of a row.
#[derive(Debug, Default)]
pub(super) struct Factors {
    scale: Vec<f32>,
    offset: Vec<f32>,
}

/// An element type the pass can write.
pub(super) trait Pixel: Copy + Default + Send + Sync {
    /// Writes a row of pixels that begins at value `first` of the output's row.
    fn row(
        pixels: &[u8],
        factors: &Factors,
        first: usize,
        out: &mut [Self],
        stream: Option<&Stream>,
    );
    /// What a padding pixel of colour `mean` becomes.
    fn padding(mean: [u8; 3]) -> [Self; 3];
}

/// From this size on an image is streamed: a batch of such will have left the cache when it is read.
const STREAMED_BYTES: usize = 1 << 16;

impl Finisher {
    /// Sets `out[y, x, c] = (pixel + shift_c - mean_c) / std_c` for the coming images of side
    /// `crop`.
    pub(super) fn set(&mut self, crop: u32, normalisation: &Normalisation, shift: [f32; 3]) {
        let len = crop as usize * 3;
        let Normalisation { mean, std } = normalisation;
        let scale = std.map(|std| 1.0 / std);
        let offset = [0, 1, 2].map(|c| (shift[c] - mean[c]) * scale[c]);
        self.padding = mean.map(|mean| (mean + 0.5) as u8);
        self.mirrored.resize(len, 0);
        let rows = [(&mut self.factors.scale, scale), (&mut self.factors.offset, offset)];
        for (row, factors) in rows {
            row.resize(len, 0.0);
            row.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&factors));
        }
    }

    /// Writes `window` of the frame, padded by `pad` on each side, to `out`, `[crop, crop, 3]`.
    pub(super) fn window<P: Pixel>(
        &mut self,
        frame: Frame<'_>,
        pad: u32,
        window: Window,
        out: &mut [P],
    ) {
        let stream = (size_of_val(out) >= STREAMED_BYTES).then(Stream::begin);
        simd::run(Cut { finisher: self, frame, pad, window, out, stream: stream.as_ref() });
    }
}

/// One window of one frame.
struct Cut<'a, P> {
    finisher: &'a mut Finisher,
    frame: Frame<'a>,
    pad: u32,
    window: Window,
    out: &'a mut [P],
    stream: Option<&'a Stream>,
}

impl<P: Pixel> Kernel for Cut<'_, P> {
    #[inline(always)]
    fn run(self) {
        let Self { finisher: Finisher { factors, mirrored, padding }, frame, window, .. } = self;
        let row_len = mirrored.len();
        let crop = row_len / 3;
        let (width, height) = (frame.width as usize, frame.height as usize);
        let (pad, left, top) = (self.pad as usize, window.left as usize, window.top as usize);
        let padding = P::padding(*padding);
        // The columns of the output, before reflection, that lie inside the frame.
        let start = pad.saturating_sub(left).min(crop);
        let end = (pad + width).saturating_sub(left).clamp(start, crop);
        for (y, out_row) in self.out.chunks_exact_mut(row_len).enumerate() {
            let y = top + y;
            if !(pad..pad + height).contains(&y) || start == end {
                fill(out_row, padding);
                continue;
            }
            let from = ((y - pad) * width + left + start - pad) * 3;
            let mut pixels = &frame.pixels[from..][..(end - start) * 3];
            let mut place = start * 3..end * 3;
            if window.mirrored {
                mirror(pixels, &mut mirrored[..pixels.len()]);
                pixels = &mirrored[..pixels.len()];
                place = (crop - end) * 3..(crop - start) * 3;
            }
            fill(&mut out_row[..place.start], padding);
            fill(&mut out_row[place.end..], padding);
            P::row(pixels, factors, place.start, &mut out_row[place], self.stream);
        }
    }
}

#[inline(always)]
fn fill<P: Copy>(out: &mut [P], pixel: [P; 3]) {
    out.chunks_exact_mut(3).for_each(|to| to.copy_from_slice(&pixel));
}

/// Writes pixels in reverse order, in blocks of constant size that become shuffles.
#[inline(always)]
fn mirror(pixels: &[u8], out: &mut [u8]) {
    const PIXELS: usize = 16;
    let (rest, blocks) = pixels.as_rchunks::<{ 3 * PIXELS }>();
    let (out_blocks, out_rest) = out.as_chunks_mut::<{ 3 * PIXELS }>();
    for (to, from) in out_blocks.iter_mut().zip(blocks.iter().rev()) {
        let from = *from;
        *to = std::array::from_fn(|i| from[3 * (PIXELS - 1 - i / 3) + i % 3]);
    }
    for (to, from) in out_rest.chunks_exact_mut(3).zip(rest.chunks_exact(3).rev()) {
        to.copy_from_slice(from);
    }
}

impl Pixel for u8 {
    #[inline(always)]
    fn row(pixels: &[u8], _: &Factors, _: usize, out: &mut [u8], _: Option<&Stream>) {
        out.copy_from_slice(pixels);
    }

    #[inline(always)]
    fn padding(mean: [u8; 3]) -> [u8; 3] {
        mean
    }
}

impl Pixel for bf16 {
    #[inline(always)]
    fn row(pixels: &[u8], factors: &Factors, first: usize, out: &mut [bf16], _: Option<&Stream>) {
        factors.apply(pixels, first, out, bf16::narrow);
    }

    #[inline(always)]
    fn padding(_: [u8; 3]) -> [bf16; 3] {
        [bf16::ZERO; 3]
    }
}

impl Pixel for f32 {
    #[inline(always)]
    fn row(
        pixels: &[u8],
        factors: &Factors,
        first: usize,
        out: &mut [f32],
        stream: Option<&Stream>,
    ) {
        let Some(stream) = stream else {
            return factors.apply(pixels, first, out, |x| x);
        };
        let (head, body, tail) = stream::lines(out);
        let (before, pixels) = pixels.split_at(head.len());
        factors.apply(before, first, head, |x| x);
        let first = first + head.len();
        let (blocks, after) = pixels.as_chunks::<LINE>();
        let (scales, _) = factors.scale[first..].as_chunks::<LINE>();
        let (offsets, _) = factors.offset[first..].as_chunks::<LINE>();
        let last = first + body.len() * LINE;
        for (((line, block), scale), offset) in body.iter_mut().zip(blocks).zip(scales).zip(offsets)
        {
            let value = |i: usize| f32::from(block[i]) * scale[i] + offset[i];
            stream.store(line, std::array::from_fn(value));
        }
        factors.apply(after, last, tail, |x| x);
    }

    #[inline(always)]
    fn padding(_: [u8; 3]) -> [f32; 3] {
        [0.0; 3]
    }
}

impl Factors {
    /// Writes `cast` of every pixel, times its scale, plus its offset.
    #[inline(always)]
    fn apply<P>(&self, pixels: &[u8], first: usize, out: &mut [P], cast: impl Fn(f32) -> P) {
        let factors = self.scale[first..].iter().zip(&self.offset[first..]);
        for ((out, &pixel), (scale, offset)) in out.iter_mut().zip(pixels).zip(factors) {
            *out = cast(f32::from(pixel) * scale + offset);
        }
    }
}
