//! The inverse cosine transform of one block.
//!
//! The accurate integer transform of the Independent JPEG Group's library (Loeffler, Ligtenberg and
//! Moschytz 1989, 13 fractional bits): the same bits as that library.

use std::num::Wrapping;

use super::coefficients::Block;
use crate::kernels::shuffle::{SIDE, Shuffle};

/// Bits of the fraction of the constants.
const CONST_BITS: u32 = 13;
/// Bits of the fraction that the first pass keeps.
const PASS_BITS: u32 = 2;

/// A row of eight coefficients or samples.
type Row = [i32; SIDE];

/// Transforms the columns of a matrix, and drops `bits` bits of the fraction.
///
/// A loop over lanes around scalar arithmetic is the form that becomes vector code. Damaged files
/// may overflow; what comes out then does not matter.
#[inline(always)]
fn transform(x: &[Row; SIDE], bits: u32) -> [Row; SIDE] {
    let mut out = [[0; SIDE]; SIDE];
    for lane in 0..SIDE {
        let [x0, x1, x2, x3, x4, x5, x6, x7] = std::array::from_fn(|v| Wrapping(x[v][lane]));
        let mul = |x: Wrapping<i32>, by: i32| x * Wrapping(by);

        let z = mul(x2 + x6, 4433);
        let (t2, t3) = (z - mul(x6, 15137), z + mul(x2, 6270));
        let (t0, t1) = ((x0 + x4) << CONST_BITS as usize, (x0 - x4) << CONST_BITS as usize);
        let even = [t0 + t3, t1 + t2, t1 - t2, t0 - t3];

        let (z3, z4) = (x7 + x3, x5 + x1);
        let z5 = mul(z3 + z4, 9633);
        let (z1, z2) = (mul(x7 + x1, -7373), mul(x5 + x3, -20995));
        let (z3, z4) = (mul(z3, -16069) + z5, mul(z4, -3196) + z5);
        let odd = [
            mul(x1, 12299) + z1 + z4,
            mul(x3, 25172) + z2 + z3,
            mul(x5, 16819) + z2 + z4,
            mul(x7, 2446) + z1 + z3,
        ];
        let half = Wrapping(1 << (bits - 1));
        for (i, (even, odd)) in even.into_iter().zip(odd).enumerate() {
            out[i][lane] = ((even + odd + half) >> bits as usize).0;
            out[7 - i][lane] = ((even - odd + half) >> bits as usize).0;
        }
    }
    out
}

/// Coefficients and their divisors, by (vertical, horizontal) frequency, to samples by (column, row).
/// Only the first `FILLED` frequencies each way are looked at.
#[inline(always)]
pub(super) fn inverse<const FILLED: usize>(
    block: &Block,
    divisors: &[u16; 64],
    shuffle: impl Shuffle,
) -> [[u8; SIDE]; SIDE] {
    let mut coefficients = [[0; SIDE]; SIDE];
    for ((to, &from), &divisor) in
        coefficients[..FILLED].as_flattened_mut().iter_mut().zip(block).zip(divisors)
    {
        *to = i32::from(from).wrapping_mul(i32::from(divisor));
    }
    let rows = transform(&coefficients, CONST_BITS - PASS_BITS);
    let mut columns = shuffle.transpose(&rows);
    columns[FILLED..].fill([0; SIDE]);
    let columns = transform(&columns, CONST_BITS + PASS_BITS + 3);
    let mut samples = [[0; SIDE]; SIDE];
    for (to, &level) in samples.as_flattened_mut().iter_mut().zip(columns.as_flattened()) {
        *to = sample(level);
    }
    samples
}

/// The samples of a block that has only a mean.
#[inline(always)]
pub(super) fn flat(mean: i16, divisor: u16) -> u8 {
    sample((i32::from(mean).wrapping_mul(i32::from(divisor)).wrapping_add(4)) >> 3)
}

#[inline(always)]
fn sample(level: i32) -> u8 {
    level.wrapping_add(128).clamp(0, 255) as u8
}
