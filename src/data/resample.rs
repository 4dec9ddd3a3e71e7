//! Resizes a region of planes to interleaved RGB8: antialiased bilinear, as Pillow defines it.
//!
//! Each output sample is a weighted mean under a triangle as wide as the scale, cut off at the
//! border of what is drawn. Columns are weighed first, straight from column-major planes, then
//! rows, a strip of the output at a time so that all between stays in the first cache. Colour
//! planes go from their own resolution to that of the output in the same step, so they are never
//! enlarged, and colours are converted at the output's resolution.

use std::ops::Range;

use super::cover::{Axis, Drawing};
use super::jpeg::Plane;
use crate::kernels::shuffle::{SIDE, Shuffle, Shuffled, Shuffling};
use crate::kernels::simd::{self, LANES};

/// The weights of one direction, as many for every output sample.
#[derive(Debug, Default)]
struct Taps {
    num: usize,
    /// The first source sample of each output sample.
    starts: Vec<usize>,
    /// `[outputs, num]`
    weights: Vec<f32>,
}

impl Taps {
    /// The weights for frame pixels `range` from samples that lie `coarseness` pixels apart.
    fn set(&mut self, axis: Axis, coarseness: usize, range: Range<u32>) {
        let step = axis.step / coarseness as f64;
        let origin = axis.origin / coarseness as f64;
        let low = axis.first as usize / coarseness;
        let high = (axis.end as usize).div_ceil(coarseness);
        let radius = step.max(1.0);
        let centre = |i: u32| origin + (f64::from(i) + 0.5) * step;
        // The samples whose weights are not zero.
        let support = |i: u32| {
            let first = (centre(i) - radius + 0.5).floor().max(0.0) as usize;
            let end = (centre(i) + radius - 0.5).ceil().max(0.0) as usize;
            let first = first.clamp(low, high - 1);
            first..end.clamp(first + 1, high)
        };
        self.num = range.clone().map(|i| support(i).len()).max().unwrap_or(0);
        self.starts.clear();
        self.weights.clear();
        for i in range {
            let (centre, support) = (centre(i), support(i));
            let start = support.start.min(high - self.num);
            let weight = |at: usize| match support.contains(&at) {
                true => (1.0 - ((at as f64 + 0.5 - centre) / radius).abs()).max(0.0),
                false => 0.0,
            };
            let sum: f64 = support.clone().map(weight).sum();
            let scale = if sum > 0.0 { sum.recip() } else { 0.0 };
            self.starts.push(start);
            self.weights.extend((start..start + self.num).map(|at| (weight(at) * scale) as f32));
        }
    }

    /// The source samples that are looked at.
    fn reach(&self) -> Range<usize> {
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
struct Taps2 {
    columns: Taps,
    rows: Taps,
}

/// Draws planes at any scale; its memory is kept between images.
#[derive(Debug, Default)]
pub(super) struct Resample {
    /// For the first plane.
    full: Taps2,
    /// For the other two.
    colour: Taps2,
    scratch: Scratch,
}

impl Resample {
    /// Takes up a drawing of an image of `size`, whose colour planes have one sample to
    /// `colour_step` pixels; the columns and rows of the image that are looked at.
    pub(super) fn set(
        &mut self,
        drawing: &Drawing,
        colour_step: (usize, usize),
        size: (u32, u32),
    ) -> [Range<usize>; 2] {
        let Drawing { cover, columns, rows } = drawing;
        self.full.columns.set(cover.x, 1, columns.clone());
        self.full.rows.set(cover.y, 1, rows.clone());
        self.colour.columns.set(cover.x, colour_step.0, columns.clone());
        self.colour.rows.set(cover.y, colour_step.1, rows.clone());
        let reach = |full: &Taps, colour: &Taps, by: usize, len: u32| {
            let (full, colour) = (full.reach(), colour.reach());
            full.start.min(colour.start * by)..full.end.max(colour.end * by).min(len as usize)
        };
        [
            reach(&self.full.columns, &self.colour.columns, colour_step.0, size.0),
            reach(&self.full.rows, &self.colour.rows, colour_step.1, size.1),
        ]
    }

    /// Draws planes that hold what [`Self::set`] named.
    pub(super) fn draw(&mut self, planes: &[Plane], target: Target<'_>) {
        let Self { full, colour, scratch } = self;
        simd::run(Shuffled(Draw { planes, full, colour, scratch, target }));
    }
}

/// Scratch memory: a strip of [`LANES`] output columns.
#[derive(Debug, Default)]
struct Scratch {
    /// Weighed columns, one after the other.
    columns: Vec<f32>,
    /// The same as rows: `[source rows, LANES]`.
    turned: Vec<Lanes>,
    /// For each plane, weighed rows: `[output rows, LANES]`.
    planes: [Vec<Lanes>; 3],
}

type Lanes = [f32; LANES];

/// Where a region is drawn.
pub(super) struct Target<'a> {
    /// Interleaved RGB, from the first pixel of the region on.
    pub(super) out: &'a mut [u8],
    /// Bytes from one row to the next.
    pub(super) pitch: usize,
}

struct Draw<'a> {
    /// One plane (grey), or three (Y, Cb, Cr).
    planes: &'a [Plane],
    full: &'a Taps2,
    colour: &'a Taps2,
    scratch: &'a mut Scratch,
    target: Target<'a>,
}

impl Shuffling for Draw<'_> {
    #[inline(always)]
    fn run(self, shuffle: impl Shuffle) {
        let Scratch { columns, turned, planes } = self.scratch;
        let width = self.full.columns.starts.len();
        let taps = [self.full, self.colour, self.colour];
        for left in (0..width).step_by(LANES) {
            let num = LANES.min(width - left);
            for ((plane, taps), drawn) in self.planes.iter().zip(taps).zip(planes.iter_mut()) {
                weigh_columns(plane, &taps.columns, left..left + num, columns);
                turn(columns, plane.height, turned, shuffle);
                weigh_rows(turned, plane.origin.1, &taps.rows, drawn);
            }
            let [y, cb, cr] = &*planes;
            for (i, row) in self.target.out.chunks_mut(self.target.pitch).take(y.len()).enumerate()
            {
                let pixels = if self.planes.len() == 1 {
                    grey_pixels(&levels(&y[i]), shuffle)
                } else {
                    let (y, cb, cr) = (levels(&y[i]), levels(&cb[i]), levels(&cr[i]));
                    colour_pixels([&y, &cb, &cr], shuffle)
                };
                let out = &mut row[left * 3..][..num * 3];
                match out.first_chunk_mut() {
                    Some(out) => *out = pixels,
                    None => out.copy_from_slice(&pixels[..out.len()]),
                }
            }
        }
    }
}

/// Weighs columns `range` of the output over the whole height of the plane.
#[inline(always)]
fn weigh_columns(plane: &Plane, taps: &Taps, range: Range<usize>, columns: &mut Vec<f32>) {
    columns.resize(LANES * plane.height, 0.0);
    for (i, column) in range.zip(columns.chunks_exact_mut(plane.height)) {
        let (start, weights) = taps.of(i);
        let from = |t| plane.column(start + t);
        match *weights {
            [a] => weigh([a], [0].map(from), column),
            [a, b] => weigh([a, b], [0, 1].map(from), column),
            [a, b, c] => weigh([a, b, c], [0, 1, 2].map(from), column),
            [a, b, c, d] => weigh([a, b, c, d], [0, 1, 2, 3].map(from), column),
            _ => weigh_many(weights, from, column),
        }
    }
}

/// The weighted sum of a few columns, in one pass.
#[inline(always)]
fn weigh<const N: usize>(weights: [f32; N], columns: [&[u8]; N], out: &mut [f32]) {
    let columns = columns.map(|column| column.as_chunks::<SIDE>().0);
    for (i, out) in out.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
        let mut sums = [0.0; SIDE];
        for (weight, column) in weights.into_iter().zip(columns) {
            for (sum, &sample) in sums.iter_mut().zip(&column[i]) {
                *sum += weight * f32::from(sample);
            }
        }
        *out = sums;
    }
}

/// The weighted sum of any number of columns.
#[inline(always)]
fn weigh_many<'a>(weights: &[f32], column: impl Fn(usize) -> &'a [u8], out: &mut [f32]) {
    out.fill(0.0);
    for (t, &weight) in weights.iter().enumerate() {
        for (sum, &sample) in out.iter_mut().zip(column(t)) {
            *sum += weight * f32::from(sample);
        }
    }
}

/// Makes columns of `height`, a multiple of [`SIDE`], rows.
#[inline(always)]
fn turn(columns: &[f32], height: usize, rows: &mut Vec<Lanes>, shuffle: impl Shuffle) {
    rows.resize(height, [0.0; LANES]);
    for (top, rows) in (0..).step_by(SIDE).zip(rows.chunks_exact_mut(SIDE)) {
        for left in (0..LANES).step_by(SIDE) {
            let mut square = [[0.0; SIDE]; SIDE];
            for (i, column) in square.iter_mut().enumerate() {
                column.copy_from_slice(&columns[(left + i) * height + top..][..SIDE]);
            }
            for (row, turned) in rows.iter_mut().zip(&shuffle.transpose(&square)) {
                row[left..left + SIDE].copy_from_slice(turned);
            }
        }
    }
}

/// Weighs rows of `LANES` columns; the first is row `first` of the component.
#[inline(always)]
fn weigh_rows(rows: &[Lanes], first: usize, taps: &Taps, out: &mut Vec<Lanes>) {
    out.resize(taps.starts.len(), [0.0; LANES]);
    match taps.num {
        1 => weigh_rows_of::<1>(rows, first, taps, out),
        2 => weigh_rows_of::<2>(rows, first, taps, out),
        3 => weigh_rows_of::<3>(rows, first, taps, out),
        4 => weigh_rows_of::<4>(rows, first, taps, out),
        _ => {
            for (y, out) in out.iter_mut().enumerate() {
                let (start, weights) = taps.of(y);
                *out = weighed(weights, &rows[start - first..]);
            }
        }
    }
}

/// [`weigh_rows`] for `N` weights.
#[inline(always)]
fn weigh_rows_of<const N: usize>(rows: &[Lanes], first: usize, taps: &Taps, out: &mut [Lanes]) {
    let weights = taps.weights.as_chunks::<N>().0;
    for ((weights, start), out) in weights.iter().zip(&taps.starts).zip(out) {
        *out = weighed(weights, &rows[start - first..][..N]);
    }
}

/// The weighted sum of rows.
#[inline(always)]
fn weighed(weights: &[f32], rows: &[Lanes]) -> Lanes {
    let mut sums = [0.0; LANES];
    for (weight, row) in weights.iter().zip(rows) {
        for (sum, sample) in sums.iter_mut().zip(row) {
            *sum += weight * sample;
        }
    }
    sums
}

/// Levels as sixteen bits hold them: 256ths, less 128.
pub(super) type Levels = [i16; LANES];

/// What [`Levels`] hold of 256ths.
#[inline(always)]
pub(super) fn centred(level: u16) -> i16 {
    (level ^ 0x8000) as i16
}

/// The nearest 256th, from the bits of a sum whose last place is one: an `as` that vectorises.
#[inline(always)]
fn levels(values: &Lanes) -> Levels {
    const LAST_PLACE_IS_A_256TH: f32 = 32_768.0;
    let mut levels = [0; LANES];
    for (level, value) in levels.iter_mut().zip(values) {
        *level = centred((value + LAST_PLACE_IS_A_256TH).to_bits() as u16);
    }
    levels
}

/// The level that is nearest to `above` 256ths less a half.
#[inline(always)]
fn nearest(above: i16) -> u8 {
    (above >> 8) as u8 ^ 0x80
}

/// Half a level.
const HALF: i16 = 128;

/// Interleaved RGB.
type Pixels = [u8; 3 * LANES];

/// The pixels of as many grey levels.
#[inline(always)]
pub(super) fn grey_pixels(brightness: &Levels, shuffle: impl Shuffle) -> Pixels {
    let mut grey = [0; LANES];
    for (grey, y) in grey.iter_mut().zip(brightness) {
        *grey = nearest(y.saturating_add(HALF));
    }
    shuffle.interleave(&[grey; 3])
}

/// The pixels of as many colours, given as Y, Cb and Cr (ITU-T T.871).
///
/// Sums end where levels do. What is added last has the sign of what was added before it, or a sum
/// that has ended could come back.
#[inline(always)]
pub(super) fn colour_pixels([y, cb, cr]: [&Levels; 3], shuffle: impl Shuffle) -> Pixels {
    let mut rgb = [[0; LANES]; 3];
    let [red, green, blue] = &mut rgb;
    for (lane, ((red, green), blue)) in red.iter_mut().zip(green).zip(blue).enumerate() {
        let (y, cb, cr) = (y[lane].saturating_add(HALF), cb[lane], cr[lane]);
        let times = |level: i16, factor: f64| {
            let factor = (factor * 65_536.0 + 0.5) as i16;
            ((i32::from(level) * i32::from(factor)) >> 16) as i16
        };
        *red = nearest(y.saturating_add(cr).saturating_add(times(cr, 0.402)));
        let half = times(cb, 0.344_136 / 2.0) + times(cr, 0.714_136 / 2.0) + 1;
        *green = nearest(y.saturating_sub(half).saturating_sub(half));
        let half = times(cb, 0.772 / 2.0);
        *blue = nearest(y.saturating_add(cb).saturating_add(half).saturating_add(half));
    }
    shuffle.interleave(&rgb)
}
