//! The inverse cosine transform of one block, and a column-major plane of samples to put it in.
//!
//! The accurate integer transform of the Independent JPEG Group's library (Loeffler, Ligtenberg and
//! Moschytz 1989, 13 fractional bits): the same bits as that library. Eight columns or rows are
//! worked on at a time. Planes are column-major because the resizer reads them so.

type Lanes = [i32; 8];

/// Bits of the fraction of the constants.
const CONST_BITS: i32 = 13;
/// Bits of the fraction that the first pass keeps.
const PASS_BITS: i32 = 2;

#[inline(always)]
fn map2(a: Lanes, b: Lanes, f: impl Fn(i32, i32) -> i32) -> Lanes {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// Damaged files may overflow; what comes out then does not matter.
#[inline(always)]
fn add(a: Lanes, b: Lanes) -> Lanes {
    map2(a, b, i32::wrapping_add)
}

#[inline(always)]
fn sub(a: Lanes, b: Lanes) -> Lanes {
    map2(a, b, i32::wrapping_sub)
}

#[inline(always)]
fn mul(a: Lanes, by: i32) -> Lanes {
    std::array::from_fn(|i| a[i].wrapping_mul(by))
}

/// Transforms eight lanes at once; the results are scaled by 2^13.
#[inline(always)]
fn transform(x: &[Lanes; 8]) -> [Lanes; 8] {
    let z = mul(add(x[2], x[6]), 4433);
    let (t2, t3) = (sub(z, mul(x[6], 15137)), add(z, mul(x[2], 6270)));
    let t0 = mul(add(x[0], x[4]), 1 << CONST_BITS);
    let t1 = mul(sub(x[0], x[4]), 1 << CONST_BITS);
    let even = [add(t0, t3), add(t1, t2), sub(t1, t2), sub(t0, t3)];

    let (z3, z4) = (add(x[7], x[3]), add(x[5], x[1]));
    let z5 = mul(add(z3, z4), 9633);
    let (z1, z2) = (mul(add(x[7], x[1]), -7373), mul(add(x[5], x[3]), -20995));
    let (z3, z4) = (add(mul(z3, -16069), z5), add(mul(z4, -3196), z5));
    let odd = [
        add(mul(x[1], 12299), add(z1, z4)),
        add(mul(x[3], 25172), add(z2, z3)),
        add(mul(x[5], 16819), add(z2, z4)),
        add(mul(x[7], 2446), add(z1, z3)),
    ];
    std::array::from_fn(|i| match i {
        0..4 => add(even[i], odd[i]),
        _ => sub(even[7 - i], odd[7 - i]),
    })
}

#[inline(always)]
fn descale(x: Lanes, bits: i32) -> Lanes {
    std::array::from_fn(|i| x[i].wrapping_add(1 << (bits - 1)) >> bits)
}

/// Dequantised coefficients by (vertical, horizontal) frequency to samples by (column, row).
#[inline(always)]
pub(super) fn inverse(block: &[i32; 64]) -> [[u8; 8]; 8] {
    let x: [Lanes; 8] = std::array::from_fn(|v| std::array::from_fn(|u| block[v * 8 + u]));
    let x = transform(&x);
    let rows: [Lanes; 8] = std::array::from_fn(|v| descale(x[v], CONST_BITS - PASS_BITS));
    let columns: [Lanes; 8] = std::array::from_fn(|u| std::array::from_fn(|y| rows[y][u]));
    let columns = transform(&columns);
    std::array::from_fn(|u| {
        let column = descale(columns[u], CONST_BITS + PASS_BITS + 3);
        std::array::from_fn(|y| sample(column[y]))
    })
}

/// The samples of a block that has only a mean.
#[inline(always)]
pub(super) fn flat(mean: i32) -> u8 {
    sample(mean.wrapping_add(4) >> 3)
}

#[inline(always)]
fn sample(level: i32) -> u8 {
    level.wrapping_add(128).clamp(0, 255) as u8
}

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
        for (x, samples) in block.iter().enumerate() {
            self.samples[(column + x) * self.height + row..][..8].copy_from_slice(samples);
        }
    }
}
