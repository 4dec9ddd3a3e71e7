//! Draws a region of planes that is not resized: only colour planes of half the resolution are
//! weighed.
//!
//! The pixels are, bit for bit, those of [`super::resample`] at scale one, where every weight is a
//! number of quarters and every sum a number of sixteenths. Why an image keeps its size is not known
//! here.

use std::ops::{Range, RangeInclusive};

use super::cover::{Axis, Drawing};
use super::jpeg::Plane;
use super::resample::{Levels, Target, centred, colour_pixels, grey_pixels};
use crate::kernels::shuffle::{Shuffle, Shuffled, Shuffling};
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

    /// Draws planes that hold what [`Self::reach`] says, row after row.
    pub(super) fn draw(&self, planes: &mut [Plane], scratch: &mut Scratch, target: Target<'_>) {
        for plane in &mut planes[1..] {
            plane.repeat_ends(self.x.held());
        }
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
        let held = self.held();
        sample.saturating_add_signed(by).clamp(*held.start(), *held.end())
    }

    /// The colour samples that are looked at.
    #[inline(always)]
    fn held(&self) -> RangeInclusive<usize> {
        self.reach.start >> self.halvings..=(self.reach.end - 1) >> self.halvings
    }
}

/// Scratch memory, kept between images.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// For each colour plane, its last rows at the resolution of the columns.
    colours: [Vec<Wide>; 2],
}

/// Rows of colours that are held: those that an output row is mixed from.
const HELD_ROWS: usize = 2;

/// Samples of a strip.
type Bytes = [u8; LANES];
/// The same in 64ths.
type Wide = [u16; LANES];

struct Draw<'a> {
    place: &'a Unscaled,
    planes: &'a [Plane],
    scratch: &'a mut Scratch,
    target: Target<'a>,
}

impl Shuffling for Draw<'_> {
    #[inline(always)]
    fn run(self, shuffle: impl Shuffle) {
        let Self { place: Unscaled { x, y }, planes, scratch, target } = self;
        let num_strips = x.drawn.len().div_ceil(LANES);
        // The last strip ends where the rows do.
        let left = |strip: usize| (x.drawn.start + strip * LANES).min(x.drawn.end - LANES);
        let rows = y.drawn.clone().zip(target.out.chunks_mut(target.pitch));
        let Scratch { colours } = scratch;
        colours.iter_mut().for_each(|rows| rows.resize(HELD_ROWS * num_strips, [0; LANES]));
        let mut next = 0;
        for (row, out) in rows {
            let mixed = y.samples(row);
            let first = mixed[0].min(mixed[1]);
            for at in first.max(next)..=mixed[0].max(mixed[1]) {
                for (plane, rows) in planes[1..].iter().zip(&mut *colours) {
                    let strips = &mut rows[at % HELD_ROWS * num_strips..][..num_strips];
                    for (strip, wide) in strips.iter_mut().enumerate() {
                        *wide = widened(plane, at, left(strip), x.halvings);
                    }
                }
                next = at + 1;
            }
            let bright = planes[0].part_of_row(row, x.drawn.clone());
            let out = &mut out[..3 * bright.len()];
            let (Some(last), Some(last_out)) = (bright.last_chunk(), out.last_chunk_mut()) else {
                return; // narrower than a strip
            };
            let [cb, cr] = &*colours;
            if planes.len() == 1 {
                *last_out = grey_pixels(&whole(last), shuffle);
                for (out, bright) in out.as_chunks_mut().0.iter_mut().zip(bright.as_chunks().0) {
                    *out = grey_pixels(&whole(bright), shuffle);
                }
            } else {
                let (cb, cr) =
                    (Mixed::new(cb, mixed, num_strips), Mixed::new(cr, mixed, num_strips));
                let end = num_strips - 1;
                *last_out = colour_pixels([&whole(last), &cb.mean(end), &cr.mean(end)], shuffle);
                let strips = out.as_chunks_mut().0.iter_mut().zip(bright.as_chunks().0);
                for (strip, (out, bright)) in strips.enumerate() {
                    let (cb, cr) = (cb.mean(strip), cr.mean(strip));
                    *out = colour_pixels([&whole(bright), &cb, &cr], shuffle);
                }
            }
        }
    }
}

/// Two rows of colours that an output row is mixed from.
struct Mixed<'a> {
    near: &'a [Wide],
    far: &'a [Wide],
}

impl<'a> Mixed<'a> {
    /// The nearer and the farther, among those that are held.
    #[inline(always)]
    fn new(rows: &'a [Wide], [near, far]: [usize; 2], num_strips: usize) -> Self {
        let held = |at: usize| &rows[at % HELD_ROWS * num_strips..][..num_strips];
        Self { near: held(near), far: held(far) }
    }

    /// Three of the nearer and one of the farther.
    #[inline(always)]
    fn mean(&self, strip: usize) -> Levels {
        let mut levels = [0; LANES];
        for (level, (near, far)) in
            levels.iter_mut().zip(self.near[strip].iter().zip(&self.far[strip]))
        {
            *level = centred(3 * near + far);
        }
        levels
    }
}

/// Colours at the resolution of the columns, from column `left` on.
#[inline(always)]
fn widened(plane: &Plane, row: usize, left: usize, halvings: u32) -> Wide {
    let samples = |back| {
        let mut wide = [0; LANES];
        for (to, &sample) in wide.iter_mut().zip(plane.strip_of_row(row, left >> halvings, back)) {
            *to = u16::from(sample);
        }
        wide
    };
    match (halvings, left % 2) {
        (0, _) => {
            let mut wide = samples(0);
            wide.iter_mut().for_each(|sample| *sample *= 64);
            wide
        }
        (_, 0) => from_even(&samples(1)),
        _ => from_odd(&samples(0)),
    }
}

/// Samples from before the first column to behind the last, which is even.
#[inline(always)]
fn from_even(samples: &Wide) -> Wide {
    let mut row = [0; LANES];
    for (i, pair) in row.as_chunks_mut().0.iter_mut().enumerate() {
        let near = 48 * samples[i + 1];
        *pair = [16 * samples[i] + near, near + 16 * samples[i + 2]];
    }
    row
}

/// Samples from that of the first column, which is odd, to behind the last.
#[inline(always)]
fn from_odd(samples: &Wide) -> Wide {
    let mut row = [0; LANES];
    for (i, pair) in row.as_chunks_mut().0.iter_mut().enumerate() {
        let (a, b) = (16 * samples[i], 16 * samples[i + 1]);
        *pair = [3 * a + b, a + 3 * b];
    }
    row
}

/// Samples as they are.
#[inline(always)]
fn whole(samples: &Bytes) -> Levels {
    let mut levels = [0; LANES];
    for (level, &sample) in levels.iter_mut().zip(samples) {
        *level = centred(u16::from(sample) << 8);
    }
    levels
}
