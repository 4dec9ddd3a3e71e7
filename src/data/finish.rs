//! The last pass over pixels: window, reflection, lighting, mean and deviation, and the cast.
//!
//! One read of the bytes and one write of the output. Per-channel factors are laid out as long as
//! a row, so the inner loop is one multiply-add per value without a branch; a mean image adds one
//! subtraction. Large images of `f32` and `u8` are streamed past the cache.
//! It does not know where windows or shifts come from.

use std::sync::Arc;

use half::bf16;

use super::cover::Window;
use super::geometry::Geometry;
use super::mean_image::MeanImage;
use super::normalisation::Normalisation;
use crate::kernels::real::Real;
use crate::kernels::shuffle::{Shuffle, Shuffled, Shuffling};
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
    /// Room for a row within a page.
    mirrored: Vec<u8>,
    padding: [u8; 3],
}

/// Values of one row, all slices as long: `out = pixel * scale + offset`, or with a mean image
/// `out = (pixel - mean) * scale + offset`.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pixels: &'a [u8],
    scale: &'a [f32],
    offset: &'a [f32],
    mean: Option<&'a [f32]>,
}

/// An element type the pass can write.
pub(super) trait Pixel: Copy + Default + Send + Sync {
    /// Whether rows make use of a stream.
    const IS_STREAMED: bool;
    /// Writes a row of pixels.
    fn row(row: Row<'_>, out: &mut [Self], stream: Option<&Stream>);
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

/// The small page, in bytes. A load across two pages of what was stored just now waits for every
/// store before it, and those of a stream take as long as memory does.
const PAGE: usize = 4096;

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
        self.mirrored.resize(len + PAGE, 0);
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
        let page = mirrored.as_ptr().align_offset(PAGE);
        let mirrored = &mut mirrored[page..];
        let row_len = scale.len();
        let crop = row_len / 3;
        let (width, height) = (frame.width as usize, frame.height as usize);
        let (pad, left, top) = (self.pad as usize, window.left as usize, window.top as usize);
        let padding = P::padding(*padding);
        // The columns of the output, before reflection, that lie inside the frame.
        let start = pad.saturating_sub(left).min(crop);
        let end = (pad + width).saturating_sub(left).clamp(start, crop);
        let (x, num) = ((left + start).saturating_sub(pad), end - start);
        let row_at = |y: usize| {
            let y = y.checked_sub(pad).filter(|&y| y < height && num > 0)?;
            Some(&frame.pixels[(y * width + x) * 3..][..num * 3])
        };
        for row in 0..self.out.len() / row_len {
            if self.stream.is_some() {
                let ahead = row + ROWS_AHEAD;
                // Rows do not begin at lines: the line that two of them share is not streamed, and an
                // ordinary store that waits for it would hold up all streamed ones behind it.
                let shared = ahead * row_len;
                stream::prefetch(self.out.get(shared..=shared).unwrap_or_default());
                // Processors load ahead up to the end of a page, and a file's pages are small. Where stores
                // are ordinary ones this gains nothing.
                stream::prefetch(row_at(top + ahead).unwrap_or_default());
            }
            let out_row = &mut self.out[row * row_len..][..row_len];
            let y = top + row;
            let Some(mut pixels) = row_at(y) else {
                fill(out_row, padding);
                continue;
            };
            if window.mirrored {
                let row = &mut mirrored[..num * 3];
                mirror(pixels, row, shuffle);
                pixels = row;
            }
            let place = match window.mirrored {
                false => start * 3..end * 3,
                true => (crop - end) * 3..(crop - start) * 3,
            };
            fill(&mut out_row[..place.start], padding);
            fill(&mut out_row[place.end..], padding);
            let (scale, offset) = (&scale[place.clone()], &offset[place.clone()]);
            let mean = mean_image.as_ref().map(|mean| mean.row(y - pad, x, num, window.mirrored));
            let row = Row { pixels, scale, offset, mean };
            P::row(row, &mut out_row[place], self.stream);
        }
    }
}

#[inline(always)]
fn fill<P: Copy>(out: &mut [P], pixel: [P; 3]) {
    out.chunks_exact_mut(3).for_each(|to| to.copy_from_slice(&pixel));
}

/// Writes `pixels` to `out` in reverse order. Processors load ahead for reads in rising order only.
#[inline(always)]
fn mirror(pixels: &[u8], out: &mut [u8], shuffle: impl Shuffle) {
    let (Some(last), Some(first)) = (pixels.last_chunk(), out.first_chunk_mut()) else {
        let pixels = pixels.as_chunks::<3>().0.iter().rev();
        return out.as_chunks_mut().0.iter_mut().zip(pixels).for_each(|(to, from)| *to = *from);
    };
    *first = shuffle.reverse_pixels(last);
    let blocks = out.as_rchunks_mut().1.iter_mut().rev();
    for (from, to) in pixels.as_chunks().0.iter().zip(blocks) {
        *to = shuffle.reverse_pixels(from);
    }
}

impl Pixel for u8 {
    const IS_STREAMED: bool = true;

    #[inline(always)]
    fn row(row: Row<'_>, out: &mut [u8], stream: Option<&Stream>) {
        match stream {
            None => out.copy_from_slice(row.pixels),
            Some(stream) => stream.copy(row.pixels, out),
        }
    }

    #[inline(always)]
    fn padding(mean: [u8; 3]) -> [u8; 3] {
        mean
    }
}

impl Pixel for bf16 {
    const IS_STREAMED: bool = false;

    #[inline(always)]
    fn row(row: Row<'_>, out: &mut [bf16], _: Option<&Stream>) {
        row.apply(out, bf16::narrow);
    }

    #[inline(always)]
    fn padding(_: [u8; 3]) -> [bf16; 3] {
        [bf16::ZERO; 3]
    }
}

impl Pixel for f32 {
    const IS_STREAMED: bool = true;

    #[inline(always)]
    fn row(row: Row<'_>, out: &mut [f32], stream: Option<&Stream>) {
        let Some(stream) = stream else {
            return row.apply(out, |x| x);
        };
        let (head, body, tail) = stream::lines(out);
        let (before, row) = row.split_at(head.len());
        let (lines, after) = row.split_at(body.len() * LINE);
        before.apply(head, |x| x);
        lines.stream(body, stream);
        after.apply(tail, |x| x);
    }

    #[inline(always)]
    fn padding(_: [u8; 3]) -> [f32; 3] {
        [0.0; 3]
    }
}

impl<'a> Row<'a> {
    #[inline(always)]
    fn split_at(self, at: usize) -> (Self, Self) {
        let (pixels, pixels_after) = self.pixels.split_at(at);
        let (scale, scale_after) = self.scale.split_at(at);
        let (offset, offset_after) = self.offset.split_at(at);
        let (mean, mean_after) = self.mean.map(|mean| mean.split_at(at)).unzip();
        let before = Row { pixels, scale, offset, mean };
        let pixels = pixels_after;
        let after = Row { pixels, scale: scale_after, offset: offset_after, mean: mean_after };
        (before, after)
    }

    /// Writes `cast` of every value.
    #[inline(always)]
    fn apply<P>(self, out: &mut [P], cast: impl Fn(f32) -> P) {
        let values = out.iter_mut().zip(self.pixels).zip(self.scale).zip(self.offset);
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

    /// Writes whole lines past the cache.
    #[inline(always)]
    fn stream(self, out: &mut [Line], stream: &Stream) {
        let pixels = self.pixels.as_chunks::<LINE>().0;
        let (scales, offsets) =
            (self.scale.as_chunks::<LINE>().0, self.offset.as_chunks::<LINE>().0);
        let lines = out.iter_mut().zip(pixels).zip(scales).zip(offsets);
        match self.mean {
            None => {
                for (((line, pixels), scale), offset) in lines {
                    let value = |i: usize| f32::from(pixels[i]) * scale[i] + offset[i];
                    stream.store(line, std::array::from_fn(value));
                }
            }
            Some(mean) => {
                for ((((line, pixels), scale), offset), mean) in
                    lines.zip(mean.as_chunks::<LINE>().0)
                {
                    let value = |i: usize| (f32::from(pixels[i]) - mean[i]) * scale[i] + offset[i];
                    stream.store(line, std::array::from_fn(value));
                }
            }
        }
    }
}
