//! The samples of a part of one component.
//!
//! Column after column for the resizer, which weighs columns first; row after row for images that keep
//! their size.

use std::ops::{Range, RangeInclusive};

use crate::kernels::shuffle::{SIDE, Shuffle};
use crate::kernels::simd::LANES;

/// What lies one after another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lines {
    /// The samples of a column.
    #[default]
    Columns,
    /// The samples of a row.
    Rows,
}

/// Room around a row, in samples.
const MARGIN: usize = LANES;

/// A rectangle of one component.
#[derive(Debug, Default)]
pub(crate) struct Plane {
    /// The first column and row that are held, in samples of the whole component.
    pub(crate) origin: (usize, usize),
    /// Samples in a column.
    pub(crate) height: usize,
    lines: Lines,
    /// From one line to the next.
    pitch: usize,
    /// Line after line; what lies beyond belongs to an earlier image.
    samples: Vec<u8>,
}

impl Plane {
    /// Makes room for `width` columns of `height` samples.
    pub(super) fn reset(
        &mut self,
        lines: Lines,
        origin: (usize, usize),
        width: usize,
        height: usize,
    ) {
        (self.lines, self.origin, self.height) = (lines, origin, height);
        let num_lines;
        (self.pitch, num_lines) = match lines {
            Lines::Columns => (height, width),
            Lines::Rows => (width + 2 * MARGIN, height),
        };
        let len = self.pitch * num_lines;
        if self.samples.len() < len {
            self.samples.resize(len, 0);
        }
    }

    /// The samples of a column of the component, where columns are lines.
    #[inline(always)]
    pub(crate) fn column(&self, column: usize) -> &[u8] {
        debug_assert_eq!(self.lines, Lines::Columns);
        &self.samples[(column - self.origin.0) * self.pitch..][..self.height]
    }

    /// Samples of a row of the component, where rows are lines.
    #[inline(always)]
    pub(crate) fn part_of_row(&self, row: usize, columns: Range<usize>) -> &[u8] {
        &self.samples[self.at_row(row) + columns.start - self.origin.0..][..columns.len()]
    }

    /// The same from `back` before `column` on. Those that are not held have no meaning.
    #[inline(always)]
    pub(crate) fn strip_of_row(&self, row: usize, column: usize, back: usize) -> &[u8; LANES] {
        let at = self.at_row(row) + column - self.origin.0 - back;
        self.samples[at..].first_chunk().expect("rows have margins")
    }

    /// Repeats the first and the last of `columns` beyond them, once, in every row.
    pub(crate) fn repeat_ends(&mut self, columns: RangeInclusive<usize>) {
        for row in self.origin.1..self.origin.1 + self.height {
            let at = self.at_row(row);
            let [first, last] = [columns.start(), columns.end()].map(|x| at + x - self.origin.0);
            self.samples[first - 1] = self.samples[first];
            self.samples[last + 1] = self.samples[last];
        }
    }

    /// Where the first sample of a row is.
    #[inline(always)]
    fn at_row(&self, row: usize) -> usize {
        debug_assert_eq!(self.lines, Lines::Rows);
        (row - self.origin.1) * self.pitch + MARGIN
    }

    /// Puts a block, by (column, row), with its left upper corner at (column, row) of what is held.
    #[inline(always)]
    pub(super) fn put(
        &mut self,
        (column, row): (usize, usize),
        block: &[[u8; SIDE]; SIDE],
        shuffle: impl Shuffle,
    ) {
        let pitch = self.pitch;
        match self.lines {
            Lines::Columns => self.put_lines(column * pitch + row, block),
            Lines::Rows => {
                self.put_lines(row * pitch + MARGIN + column, &shuffle.transpose_bytes(block));
            }
        }
    }

    #[inline(always)]
    fn put_lines(&mut self, mut at: usize, lines: &[[u8; SIDE]; SIDE]) {
        for samples in lines {
            self.samples[at..at + SIDE].copy_from_slice(samples);
            at += self.pitch;
        }
    }
}
