//! Draws a region of planes that is not resized: bytes are transposed, and only colour planes of
//! half the resolution are weighed.
//!
//! The pixels are, bit for bit, those of [`super::resample`] at scale one, where every weight is a
//! number of quarters and every sum a number of sixteenths. Why an image keeps its size is not known
//! here.

use std::ops::Range;

use super::cover::{Axis, Drawing};
use super::jpeg::Plane;
use super::resample::{Target, colour_pixels, grey_pixels};
use crate::kernels::shuffle::{SIDE, Shuffle, Shuffled, Shuffling};
use crate::kernels::simd::{self, LANES};

/// Where a drawing lies on its image, pixel by pixel.
#[derive(Debug)]
pub(super) struct Unscaled {
    x: Extent,
    y: Extent,
}

impl Unscaled {
    /// `None` if the drawing has another scale than its image, lies between its pixels, or is
    /// narrower than a strip.
    pub(super) fn new(drawing: &Drawing, coarseness: (usize, usize)) -> Option<Self> {
        let x = Extent::new(drawing.cover.x, &drawing.columns, coarseness.0)?;
        let y = Extent::new(drawing.cover.y, &drawing.rows, coarseness.1)?;
        (x.drawn.len() >= LANES).then_some(Self { x, y })
    }

    /// The columns and rows of the image that are looked at.
    pub(super) fn reach(&self) -> [Range<usize>; 2] {
        [self.x.reach.clone(), self.y.reach.clone()]
    }

    /// Draws planes that hold what [`Self::reach`] says.
    pub(super) fn draw(&self, planes: &[Plane], scratch: &mut Scratch, target: Target<'_>) {
        simd::run(Shuffled(Draw { place: self, planes, scratch, target }));
    }
}

/// One direction, in pixels of the image.
#[derive(Debug)]
struct Extent {
    drawn: Range<usize>,
    /// With what colours are mixed from: a pixel more each way, if it belongs to the part shown.
    reach: Range<usize>,
    /// How often the colour planes' resolution is halved: once or never.
    halvings: u32,
}

impl Extent {
    fn new(axis: Axis, frame: &Range<u32>, coarseness: usize) -> Option<Self> {
        if axis.step != 1.0 || axis.origin.fract() != 0.0 {
            return None;
        }
        let [start, end] = [frame.start, frame.end].map(|at| axis.origin as usize + at as usize);
        let first = start.saturating_sub(1).max(axis.first as usize);
        let reach = first..(end + 1).min(axis.end as usize);
        Some(Self { drawn: start..end, reach, halvings: coarseness.ilog2() })
    }

    /// The colour sample in the middle of which a pixel lies, or the nearer and the farther of the
    /// two between which it lies.
    #[inline(always)]
    fn samples(&self, pixel: usize) -> [usize; 2] {
        let near = pixel >> self.halvings;
        match (self.halvings, pixel % 2) {
            (0, _) => [near, near],
            (_, 0) => [near, self.inside(near, -1)],
            _ => [near, self.inside(near, 1)],
        }
    }

    /// The colour sample `by` away, or the last that there is in this direction.
    #[inline(always)]
    fn inside(&self, sample: usize, by: isize) -> usize {
        let first = self.reach.start >> self.halvings;
        let last = (self.reach.end - 1) >> self.halvings;
        sample.saturating_add_signed(by).clamp(first, last)
    }
}

/// Scratch memory, kept between images: rows of a strip of [`LANES`] output columns.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    brightness: Vec<Bytes>,
    /// A colour plane's own samples.
    samples: Vec<Bytes>,
    /// For each colour plane, its samples at the resolution of the columns, in quarters.
    colours: [Vec<Quarters>; 2],
    /// For each output row, the rows of `colours` that are mixed: the nearer, and the farther.
    mixed: Vec<[usize; 2]>,
}

type Bytes = [u8; LANES];
type Quarters = [u16; LANES];

struct Draw<'a> {
    place: &'a Unscaled,
    planes: &'a [Plane],
    scratch: &'a mut Scratch,
    target: Target<'a>,
}

impl Shuffling for Draw<'_> {
    #[inline(always)]
    fn run(self, shuffle: impl Shuffle) {
        let Unscaled { x, y } = self.place;
        let Scratch { brightness, samples, colours, mixed } = self.scratch;
        let (bright, coloured) = (&self.planes[0], &self.planes[1..]);
        let top = y.drawn.start - bright.origin.1;
        mixed.clear();
        if let [cb, _] = coloured {
            mixed.extend(y.drawn.clone().map(|row| y.samples(row).map(|at| at - cb.origin.1)));
        }
        for left in x.drawn.clone().step_by(LANES) {
            let left = left.min(x.drawn.end - LANES);
            turn(bright, |i| left + i, brightness, shuffle);
            for (plane, colours) in coloured.iter().zip(&mut *colours) {
                match (x.halvings, left % 2) {
                    (0, _) => {
                        turn(plane, |i| x.inside(left, i as isize), samples, shuffle);
                        widen(samples, colours, |row| row.map(|sample| 4 * sample));
                    }
                    (_, 0) => {
                        turn(plane, |i| x.inside(left / 2, i as isize - 1), samples, shuffle);
                        widen(samples, colours, from_even);
                    }
                    _ => {
                        turn(plane, |i| x.inside(left / 2, i as isize), samples, shuffle);
                        widen(samples, colours, from_odd);
                    }
                }
            }
            let at = (left - x.drawn.start) * 3;
            let rows = self.target.out.chunks_mut(self.target.pitch);
            let rows = rows.map(|row| &mut row[at..][..3 * LANES]).zip(&brightness[top..]);
            if coloured.is_empty() {
                for (out, bright) in rows.take(y.drawn.len()) {
                    let pixels = grey_pixels(|lane| f32::from(bright[lane]), shuffle);
                    out.copy_from_slice(pixels.as_flattened());
                }
            } else {
                let [cb, cr] = &*colours;
                for ((out, bright), &[near, far]) in rows.zip(&*mixed) {
                    let bright = *bright;
                    let (cb, cr) = (mean(cb[near], cb[far]), mean(cr[near], cr[far]));
                    let pixels = colour_pixels(
                        |lane| [f32::from(bright[lane]), cb(lane), cr(lane)],
                        shuffle,
                    );
                    out.copy_from_slice(pixels.as_flattened());
                }
            }
        }
    }
}

/// Makes rows of the columns that `column` names.
#[inline(always)]
fn turn(
    plane: &Plane,
    column: impl Fn(usize) -> usize,
    rows: &mut Vec<Bytes>,
    shuffle: impl Shuffle,
) {
    rows.resize(plane.height, [0; LANES]);
    let mut columns = [&[][..]; LANES];
    for (i, samples) in columns.iter_mut().enumerate() {
        *samples = plane.column(column(i)).as_chunks().0;
    }
    for (i, rows) in rows.as_chunks_mut().0.iter_mut().enumerate() {
        let mut block = [[0; SIDE]; LANES];
        for (to, column) in block.iter_mut().zip(columns) {
            *to = column[i];
        }
        *rows = shuffle.transpose_bytes(&block);
    }
}

/// Brings colour samples to the resolution of the columns, in quarters.
#[inline(always)]
fn widen(samples: &[Bytes], colours: &mut Vec<Quarters>, row: impl Fn(&Quarters) -> Quarters) {
    colours.resize(samples.len(), [0; LANES]);
    for (samples, colours) in samples.iter().zip(colours) {
        let mut wide = [0; LANES];
        for (to, &sample) in wide.iter_mut().zip(samples) {
            *to = u16::from(sample);
        }
        *colours = row(&wide);
    }
}

/// Samples from before the first column to behind the last, which is even.
#[inline(always)]
fn from_even(samples: &Quarters) -> Quarters {
    let mut row = [0; LANES];
    for (i, pair) in row.as_chunks_mut().0.iter_mut().enumerate() {
        let near = 3 * samples[i + 1];
        *pair = [samples[i] + near, near + samples[i + 2]];
    }
    row
}

/// Samples from that of the first column, which is odd, to behind the last.
#[inline(always)]
fn from_odd(samples: &Quarters) -> Quarters {
    let mut row = [0; LANES];
    for (i, pair) in row.as_chunks_mut().0.iter_mut().enumerate() {
        let (a, b) = (samples[i], samples[i + 1]);
        *pair = [3 * a + b, a + 3 * b];
    }
    row
}

/// Three of the nearer and one of the farther, in levels.
#[inline(always)]
fn mean(near: Quarters, far: Quarters) -> impl Fn(usize) -> f32 {
    move |lane| f32::from(3 * near[lane] + far[lane]) / 16.0
}
