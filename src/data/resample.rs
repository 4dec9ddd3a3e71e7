//! Resizes a region of planes to interleaved RGB8: antialiased bilinear, as Pillow defines it.
//!
//! Each output sample is a weighted mean under a triangle as wide as the scale, cut off at the
//! border of what is drawn. Columns are weighed first, straight from column-major planes, then
//! rows; colour planes go from their own resolution to that of the output in the same step, so they
//! are never enlarged, and colours are converted at the output's resolution.

use std::ops::Range;

use super::jpeg::Plane;
use crate::kernels::simd::{self, Kernel, LANES};

/// One direction of a frame laid over an image: the centre of frame pixel `i` lies at
/// `origin + (i + 0.5) * step` image pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) origin: f64,
    pub(super) step: f64,
    /// The image pixels that have a weight, `first..end`: the image, or the part of it drawn.
    pub(super) first: u32,
    pub(super) end: u32,
}

/// The weights of one direction, as many for every output sample.
#[derive(Debug, Default)]
pub(super) struct Taps {
    num: usize,
    /// The first source sample of each output sample.
    starts: Vec<usize>,
    /// `[outputs, num]`
    weights: Vec<f32>,
}

impl Taps {
    /// The weights for frame pixels `range` from samples that lie `coarseness` pixels apart.
    pub(super) fn set(&mut self, axis: Axis, coarseness: usize, range: Range<u32>) {
        let step = axis.step / coarseness as f64;
        let origin = axis.origin / coarseness as f64;
        let low = axis.first as usize / coarseness;
        let high = (axis.end as usize).div_ceil(coarseness);
        let radius = step.max(1.0);
        self.num = (2 * radius.ceil() as usize + 1).min(high - low);
        self.starts.clear();
        self.weights.clear();
        for i in range {
            let centre = origin + (f64::from(i) + 0.5) * step;
            let first = ((centre - radius + 0.5).max(0.0) as usize).clamp(low, high - 1);
            let end = ((centre + radius + 0.5).max(0.0) as usize).clamp(first + 1, high);
            let start = first.min(high - self.num);
            let weight = |at: usize| match (first..end).contains(&at) {
                true => (1.0 - ((at as f64 + 0.5 - centre) / radius).abs()).max(0.0),
                false => 0.0,
            };
            let sum: f64 = (first..end).map(weight).sum();
            let scale = if sum > 0.0 { sum.recip() } else { 0.0 };
            self.starts.push(start);
            self.weights.extend((start..start + self.num).map(|at| (weight(at) * scale) as f32));
        }
    }

    /// The source samples that are looked at.
    pub(super) fn reach(&self) -> Range<usize> {
        let (first, last) = (self.starts.first(), self.starts.last());
        first.copied().unwrap_or(0)..last.map_or(0, |last| last + self.num)
    }

    #[inline(always)]
    fn of(&self, output: usize) -> (usize, &[f32]) {
        (self.starts[output], &self.weights[output * self.num..][..self.num])
    }
}

/// Weights of both directions for one kind of plane.
#[derive(Debug, Default)]
pub(super) struct Taps2 {
    pub(super) columns: Taps,
    pub(super) rows: Taps,
}

/// Scratch memory, kept between images.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// [`LANES`] columns of weighed columns.
    strip: Vec<f32>,
    /// For each plane, `[source rows, output columns]`.
    weighed: [Vec<f32>; 3],
    /// For each plane, one output row.
    rows: [Vec<f32>; 3],
}

/// Draws planes into rows of interleaved RGB.
pub(super) struct Draw<'a> {
    /// One plane (grey), or three (Y, Cb, Cr).
    pub(super) planes: &'a [Plane],
    /// For the first plane.
    pub(super) full: &'a Taps2,
    /// For the other two.
    pub(super) colour: &'a Taps2,
    pub(super) scratch: &'a mut Scratch,
    /// From the first pixel of the region on.
    pub(super) out: &'a mut [u8],
    /// Bytes from one output row to the next.
    pub(super) pitch: usize,
}

impl Draw<'_> {
    pub(super) fn draw(self) {
        simd::run(self);
    }
}

impl Kernel for Draw<'_> {
    #[inline(always)]
    fn run(self) {
        let Scratch { strip, weighed, rows } = self.scratch;
        let width = self.full.columns.starts.len();
        let taps = [self.full, self.colour, self.colour];
        for ((plane, taps), weighed) in self.planes.iter().zip(taps).zip(weighed.iter_mut()) {
            weigh_columns(plane, taps, strip, weighed);
        }
        for y in 0..self.full.rows.starts.len() {
            let num = self.planes.len();
            for (((row, weighed), taps), plane) in
                rows.iter_mut().zip(weighed.iter()).zip(taps).zip(self.planes)
            {
                weigh_rows(weighed, plane.origin.1, width, taps.rows.of(y), row);
            }
            let out = &mut self.out[y * self.pitch..][..width * 3];
            if num == 1 {
                grey_row(&rows[0], out);
            } else {
                colour_row(rows, out);
            }
        }
    }
}

/// Weighs columns: from `[columns, height]` samples to `[height, output columns]`.
#[inline(always)]
fn weigh_columns(plane: &Plane, taps: &Taps2, strip: &mut Vec<f32>, out: &mut Vec<f32>) {
    let (height, width) = (plane.height, taps.columns.starts.len());
    strip.resize(LANES * height, 0.0);
    out.resize(height * width, 0.0);
    for left in (0..width).step_by(LANES) {
        let num = LANES.min(width - left);
        for (i, sums) in strip.chunks_exact_mut(height).take(num).enumerate() {
            let (start, weights) = taps.columns.of(left + i);
            sums.fill(0.0);
            for (t, &weight) in weights.iter().enumerate() {
                for (sum, &sample) in sums.iter_mut().zip(plane.column(start + t)) {
                    *sum += weight * f32::from(sample);
                }
            }
        }
        for (y, row) in out.chunks_exact_mut(width).enumerate() {
            for (i, to) in row[left..left + num].iter_mut().enumerate() {
                *to = strip[i * height + y];
            }
        }
    }
}

/// Weighs rows for one output row.
#[inline(always)]
fn weigh_rows(
    weighed: &[f32],
    first: usize,
    width: usize,
    (start, weights): (usize, &[f32]),
    row: &mut Vec<f32>,
) {
    row.clear();
    row.resize(width, 0.0);
    for (t, &weight) in weights.iter().enumerate() {
        let from = &weighed[(start - first + t) * width..][..width];
        for (sum, &sample) in row.iter_mut().zip(from) {
            *sum += weight * sample;
        }
    }
}

/// The nearest level, from the bits of a sum whose last place is one: an `as` that vectorises.
#[inline(always)]
fn level(value: f32) -> u8 {
    const LAST_PLACE_IS_ONE: f32 = 8_388_608.0;
    let clamped = value.clamp(0.0, 255.0);
    (clamped + LAST_PLACE_IS_ONE).to_bits() as u8
}

#[inline(always)]
fn grey_row(row: &[f32], out: &mut [u8]) {
    for (pixel, &value) in out.chunks_exact_mut(3).zip(row) {
        pixel.fill(level(value));
    }
}

/// YCbCr to RGB (ITU-T T.871), a block of pixels at a time: colours first, then their interleaving.
#[inline(always)]
fn colour_row([y, cb, cr]: &[Vec<f32>; 3], out: &mut [u8]) {
    let planes = y.chunks(LANES).zip(cb.chunks(LANES)).zip(cr.chunks(LANES));
    for (pixels, ((y, cb), cr)) in out.chunks_mut(3 * LANES).zip(planes) {
        let mut rgb = [[0u8; LANES]; 3];
        for (i, ((&y, &cb), &cr)) in y.iter().zip(cb).zip(cr).enumerate() {
            let (cb, cr) = (cb - 128.0, cr - 128.0);
            rgb[0][i] = level(y + 1.402 * cr);
            rgb[1][i] = level(y - 0.344_136 * cb - 0.714_136 * cr);
            rgb[2][i] = level(y + 1.772 * cb);
        }
        for (i, pixel) in pixels.chunks_exact_mut(3).enumerate() {
            pixel.copy_from_slice(&[rgb[0][i], rgb[1][i], rgb[2][i]]);
        }
    }
}
