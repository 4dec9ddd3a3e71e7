//! The samples of a part of one component.
//!
//! Column-major, because the resizer weighs columns first.

use crate::kernels::shuffle::SIDE;

/// A rectangle of one component.
#[derive(Debug, Default)]
pub(crate) struct Plane {
    /// The first column and row that are held, in samples of the whole component.
    pub(crate) origin: (usize, usize),
    /// Samples in a column.
    pub(crate) height: usize,
    /// Column after column; what lies beyond belongs to an earlier image.
    pub(crate) samples: Vec<u8>,
}

impl Plane {
    /// Makes room for `width` columns of `height` samples.
    pub(super) fn reset(&mut self, origin: (usize, usize), width: usize, height: usize) {
        (self.origin, self.height) = (origin, height);
        if self.samples.len() < width * height {
            self.samples.resize(width * height, 0);
        }
    }

    /// The samples of a column of the component.
    #[inline(always)]
    pub(crate) fn column(&self, column: usize) -> &[u8] {
        &self.samples[(column - self.origin.0) * self.height..][..self.height]
    }

    /// Puts a block with its left upper corner at (column, row) of what is held.
    #[inline(always)]
    pub(super) fn put(&mut self, (column, row): (usize, usize), block: &[[u8; 8]; 8]) {
        let (held, height) = (self.samples.as_mut_slice(), self.height);
        let mut at = column * height + row;
        for samples in block {
            held[at..at + SIDE].copy_from_slice(samples);
            at += height;
        }
    }
}
