//! The last pass over pixels: window, reflection, lighting, mean and deviation, and the cast.
//!
//! One read of the bytes and one write of the output. Per-channel factors are laid out as long as
//! a row, so the inner loop is one multiply-add per value without a branch; a mean image adds one
//! subtraction. Large images of `f32`, and of `u8` unless mirrored, are streamed past the cache.
//! It does not know where windows or shifts come from.

use std::sync::Arc;

use half::bf16;

use super::cover::Window;
use super::geometry::Geometry;
use super::mean_image::MeanImage;
use super::normalisation::Normalisation;
use crate::kernels::real::Real;
use crate::kernels::shuffle::{REVERSED, Shuffle, Shuffled, Shuffling};
use crate::kernels::simd;
use crate::kernels::stream::{self, LINE, Line, Stream};

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
    scale: Vec<f32>,
    offset: Vec<f32>,
    mean_image: Option<Arc<MeanImage>>,
    mirrored: Vec<u8>,
    padding: [u8; 3],
}

/// Factors of one row, all slices as long as it: `out = pixel * scale + offset`, or with a mean image
/// `out = (pixel - mean) * scale + offset`.
#[derive(Clone, Copy)]
pub(super) struct Factors<'a> {
    scale: &'a [f32],
    offset: &'a [f32],
    mean: Option<&'a [f32]>,
}

/// An element type the pass can write.
pub(super) trait Pixel: Copy + Default + Send + Sync {
    /// Whether rows make use of a stream.
    const IS_STREAMED: bool;
    /// Writes a row of pixels.
    fn row(pixels: &[u8], factors: Factors<'_>, out: &mut [Self], stream: Option<&Stream>);
    /// Writes a row of pixels in reverse order.
    #[inline(always)]
    fn mirrored_row(
        pixels: &[u8],
        factors: Factors<'_>,
        scratch: &mut [u8],
        out: &mut [Self],
        stream: Option<&Stream>,
        shuffle: impl Shuffle,
    ) {
        mirror(pixels, scratch, shuffle);
        Self::row(scratch, factors, out, stream);
    }
    /// What a padding pixel of colour `mean` becomes.
    fn padding(mean: [u8; 3]) -> [Self; 3];
}

/// Where the views of an image go.
pub(super) trait Canvas {
    /// Draws view `view` of an image: `window` of its frame.
    fn draw(
        &mut self,
        view: usize,
        finisher: &mut Finisher,
        frame: Frame<'_>,
        geometry: &Geometry,
        window: Window,
    );
}

/// Finished, `[views, crop, crop, 3]`.
impl<P: Pixel> Canvas for &mut [P] {
    fn draw(
        &mut self,
        view: usize,
        finisher: &mut Finisher,
        frame: Frame<'_>,
        geometry: &Geometry,
        window: Window,
    ) {
        let num_values = geometry.num_values();
        let out = &mut self[view * num_values..][..num_values];
        finisher.window(frame, geometry.pad, window, out);
    }
}

/// From this size on an image is streamed: a batch of such will have left the cache when it is read.
const STREAMED_BYTES: usize = 1 << 16;

/// How many rows ahead of their turn lines are asked for: a microsecond or two of work.
pub(super) const ROWS_AHEAD: usize = 8;

impl Finisher {
    /// Sets `out[y, x, c] = (pixel + shift_c - mean_c) / std_c` for the coming images of side
    /// `crop`; with a mean image the mean is that of the pixel.
    pub(super) fn set(&mut self, crop: u32, normalisation: &Normalisation, shift: [f32; 3]) {
        let len = crop as usize * 3;
        let Normalisation { mean, mean_image, .. } = normalisation;
        let scale = normalisation.scale();
        let offset = match mean_image {
            None => [0, 1, 2].map(|c| (shift[c] - mean[c]) * scale[c]),
            Some(_) => [0, 1, 2].map(|c| shift[c] * scale[c]),
        };
        self.mean_image.clone_from(mean_image);
        self.padding = mean.map(|mean| (mean + 0.5) as u8);
        self.mirrored.resize(len, 0);
        let rows = [(&mut self.scale, scale), (&mut self.offset, offset)];
        for (row, factors) in rows {
            if row.len() != len || row[..3] != factors {
                row.resize(len, 0.0);
                row.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&factors));
            }
        }
    }

    /// What is added to pixels once they are scaled, red first.
    pub(super) fn offset(&self) -> [f32; 3] {
        self.offset.first_chunk().copied().unwrap_or_default()
    }

    /// Writes `window` of the frame, padded by `pad` on each side, to `out`, `[crop, crop, 3]`.
    pub(super) fn window<P: Pixel>(
        &mut self,
        frame: Frame<'_>,
        pad: u32,
        window: Window,
        out: &mut [P],
    ) {
        let is_streamed = P::IS_STREAMED && size_of_val(out) >= STREAMED_BYTES;
        let stream = is_streamed.then(Stream::begin);
        let stream = stream.as_ref();
        simd::run(Shuffled(Cut { finisher: self, frame, pad, window, out, stream }));
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

impl<P: Pixel> Shuffling for Cut<'_, P> {
    #[inline(always)]
    fn run(self, shuffle: impl Shuffle) {
        let Self { finisher, frame, window, .. } = self;
        let Finisher { scale, offset, mean_image, mirrored, padding } = finisher;
        let row_len = mirrored.len();
        let crop = row_len / 3;
        let (width, height) = (frame.width as usize, frame.height as usize);
        let (pad, left, top) = (self.pad as usize, window.left as usize, window.top as usize);
        let padding = P::padding(*padding);
        // The columns of the output, before reflection, that lie inside the frame.
        let start = pad.saturating_sub(left).min(crop);
        let end = (pad + width).saturating_sub(left).clamp(start, crop);
        for row in 0..self.out.len() / row_len {
            // Rows do not begin at lines: the line that two of them share is not streamed, and an
            // ordinary store that waits for it would hold up all streamed ones behind it.
            let ahead = self.stream.and_then(|_| self.out.get((row + ROWS_AHEAD) * row_len..));
            if let Some(ahead) = ahead {
                stream::prefetch(&ahead[..ahead.len().min(1)]);
            }
            let out_row = &mut self.out[row * row_len..][..row_len];
            let y = top + row;
            if !(pad..pad + height).contains(&y) || start == end {
                fill(out_row, padding);
                continue;
            }
            let (x, num) = (left + start - pad, end - start);
            let row = |y: usize| &frame.pixels[((y - pad) * width + x) * 3..][..num * 3];
            let place = match window.mirrored {
                false => start * 3..end * 3,
                true => (crop - end) * 3..(crop - start) * 3,
            };
            fill(&mut out_row[..place.start], padding);
            fill(&mut out_row[place.end..], padding);
            let (scale, offset) = (&scale[place.clone()], &offset[place.clone()]);
            let mean = mean_image.as_ref().map(|mean| mean.row(y - pad, x, num, window.mirrored));
            let factors = Factors { scale, offset, mean };
            let out_row = &mut out_row[place];
            if !window.mirrored {
                P::row(row(y), factors, out_row, self.stream);
                continue;
            }
            // Processors load ahead for reads in rising order only.
            if (pad..pad + height).contains(&(y + ROWS_AHEAD)) {
                stream::prefetch(row(y + ROWS_AHEAD));
            }
            let scratch = &mut mirrored[..num * 3];
            P::mirrored_row(row(y), factors, scratch, out_row, self.stream, shuffle);
        }
    }
}

#[inline(always)]
fn fill<P: Copy>(out: &mut [P], pixel: [P; 3]) {
    out.chunks_exact_mut(3).for_each(|to| to.copy_from_slice(&pixel));
}

/// Writes `pixels` to `out` in reverse order.
#[inline(always)]
fn mirror(pixels: &[u8], out: &mut [u8], shuffle: impl Shuffle) {
    let Some(last) = pixels.len().checked_sub(REVERSED).map(|slack| slack + REVERSED - LINE) else {
        let pixels = pixels.as_chunks::<3>().0.iter().rev();
        return out.as_chunks_mut().0.iter_mut().zip(pixels).for_each(|(to, from)| *to = *from);
    };
    for at in (0..pixels.len()).step_by(LINE).map(|at| at.min(last)) {
        out[at..at + LINE].copy_from_slice(&reversed(pixels, at, shuffle));
    }
}

/// The bytes from `at` on of as many pixels in reverse order.
#[inline(always)]
fn reversed(pixels: &[u8], at: usize, shuffle: impl Shuffle) -> [u8; LINE] {
    let end = pixels.len() - at / 3 * 3;
    let pixels = pixels[..end].last_chunk::<REVERSED>().expect("sixteen bytes lie in six pixels");
    shuffle.reverse_pixels(pixels, at % 3)
}

impl Pixel for u8 {
    const IS_STREAMED: bool = true;

    #[inline(always)]
    fn row(pixels: &[u8], _: Factors<'_>, out: &mut [u8], stream: Option<&Stream>) {
        match stream {
            None => out.copy_from_slice(pixels),
            Some(stream) => stream.copy(pixels, out),
        }
    }

    #[inline(always)]
    fn mirrored_row(
        pixels: &[u8],
        _: Factors<'_>,
        _: &mut [u8],
        out: &mut [u8],
        _: Option<&Stream>,
        shuffle: impl Shuffle,
    ) {
        mirror(pixels, out, shuffle);
    }

    #[inline(always)]
    fn padding(mean: [u8; 3]) -> [u8; 3] {
        mean
    }
}

impl Pixel for bf16 {
    const IS_STREAMED: bool = false;

    #[inline(always)]
    fn row(pixels: &[u8], factors: Factors<'_>, out: &mut [bf16], _: Option<&Stream>) {
        factors.apply(pixels, out, bf16::narrow);
    }

    #[inline(always)]
    fn padding(_: [u8; 3]) -> [bf16; 3] {
        [bf16::ZERO; 3]
    }
}

impl Pixel for f32 {
    const IS_STREAMED: bool = true;

    #[inline(always)]
    fn row(pixels: &[u8], factors: Factors<'_>, out: &mut [f32], stream: Option<&Stream>) {
        let Some(stream) = stream else {
            return factors.apply(pixels, out, |x| x);
        };
        let (head, body, tail) = stream::lines(out);
        let (before, pixels) = pixels.split_at(head.len());
        let (pixels, after) = pixels.as_chunks();
        factors.stream([before, after], |i| pixels[i], head, body, tail, stream);
    }

    #[inline(always)]
    fn mirrored_row(
        pixels: &[u8],
        factors: Factors<'_>,
        scratch: &mut [u8],
        out: &mut [f32],
        stream: Option<&Stream>,
        shuffle: impl Shuffle,
    ) {
        let (Some(stream), REVERSED..) = (stream, pixels.len()) else {
            mirror(pixels, scratch, shuffle);
            return factors.apply(scratch, out, |x| x);
        };
        let (head, body, tail) = stream::lines(out);
        // Reversed on the way: bytes stored just now would be waited for.
        let before = reversed(pixels, 0, shuffle);
        let after = reversed(pixels, pixels.len() - LINE, shuffle);
        let ends = [&before[..head.len()], &after[LINE - tail.len()..]];
        let skip = head.len();
        let line = |i| reversed(pixels, skip + i * LINE, shuffle);
        factors.stream(ends, line, head, body, tail, stream);
    }

    #[inline(always)]
    fn padding(_: [u8; 3]) -> [f32; 3] {
        [0.0; 3]
    }
}

impl Factors<'_> {
    #[inline(always)]
    fn split_at(self, at: usize) -> (Self, Self) {
        let (scale, scale_after) = self.scale.split_at(at);
        let (offset, offset_after) = self.offset.split_at(at);
        let (mean, mean_after) = self.mean.map(|mean| mean.split_at(at)).unzip();
        let before = Self { scale, offset, mean };
        (before, Self { scale: scale_after, offset: offset_after, mean: mean_after })
    }

    /// Writes `cast` of every value.
    #[inline(always)]
    fn apply<P>(self, pixels: &[u8], out: &mut [P], cast: impl Fn(f32) -> P) {
        let values = out.iter_mut().zip(pixels).zip(self.scale).zip(self.offset);
        match self.mean {
            None => {
                for (((out, &pixel), scale), offset) in values {
                    *out = cast(f32::from(pixel) * scale + offset);
                }
            }
            Some(mean) => {
                for ((((out, &pixel), scale), offset), mean) in values.zip(mean) {
                    *out = cast((f32::from(pixel) - mean) * scale + offset);
                }
            }
        }
    }

    /// Writes whole lines past the cache, given the pixels of each, and what lies before and after
    /// them as usual.
    #[inline(always)]
    fn stream(
        self,
        [before, after]: [&[u8]; 2],
        line: impl Fn(usize) -> [u8; LINE],
        head: &mut [f32],
        body: &mut [Line],
        tail: &mut [f32],
        stream: &Stream,
    ) {
        let (factors, rest) = self.split_at(head.len());
        factors.apply(before, head, |x| x);
        let (factors, rest) = rest.split_at(body.len() * LINE);
        rest.apply(after, tail, |x| x);
        let (scale, offset) = (factors.scale.as_chunks().0, factors.offset.as_chunks().0);
        let lines = body.iter_mut().zip(scale).zip(offset).enumerate();
        match factors.mean {
            None => {
                for (i, ((to, scale), offset)) in lines {
                    let (pixels, scale, offset): (_, &[f32; LINE], &[f32; LINE]) =
                        (line(i), scale, offset);
                    let value = |i: usize| f32::from(pixels[i]) * scale[i] + offset[i];
                    stream.store(to, std::array::from_fn(value));
                }
            }
            Some(mean) => {
                for ((i, ((to, scale), offset)), mean) in lines.zip(mean.as_chunks::<LINE>().0) {
                    let (pixels, scale, offset): (_, &[f32; LINE], &[f32; LINE]) =
                        (line(i), scale, offset);
                    let value = |i: usize| (f32::from(pixels[i]) - mean[i]) * scale[i] + offset[i];
                    stream.store(to, std::array::from_fn(value));
                }
            }
        }
    }
}
