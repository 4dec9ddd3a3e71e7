//! Shuffles that the compiler does not find by itself. FFI: the processor's shuffle instructions.
//!
//! Each has a portable form that gives the same result; the choice is made at run time and vanishes
//! where a caller is compiled for the same instruction set. The module does not know what is
//! shuffled.
#![allow(unsafe_code)]

/// The side of the squares that [`transpose`] takes.
pub(crate) const SIDE: usize = 8;

/// Rows become columns.
#[inline(always)]
pub(crate) fn transpose(square: &[[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx") {
        // SAFETY: the processor has AVX.
        return unsafe { x86::transpose(square) };
    }
    std::array::from_fn(|y| std::array::from_fn(|x| square[x][y]))
}

/// Three blocks of bytes.
pub(crate) type Blocks = [[u8; 16]; 3];

/// One element of each block in turn.
#[inline(always)]
pub(crate) fn interleave(blocks: &Blocks) -> Blocks {
    pick::<INTERLEAVED>(blocks)
}

/// Sixteen pixels of three bytes in reverse order.
#[inline(always)]
pub(crate) fn reverse_pixels(blocks: &Blocks) -> Blocks {
    pick::<REVERSED>(blocks)
}

const INTERLEAVED: usize = 0;
const REVERSED: usize = 1;

/// For each order and each byte of the result: which byte it is.
const ORDERS: [[usize; 48]; 2] = {
    let mut orders = [[0; 48]; 2];
    let mut i = 0;
    while i < 48 {
        orders[INTERLEAVED][i] = i % 3 * 16 + i / 3;
        orders[REVERSED][i] = 3 * (15 - i / 3) + i % 3;
        i += 1;
    }
    orders
};

/// The bytes of `blocks` in one of the [`ORDERS`].
#[inline(always)]
fn pick<const ORDER: usize>(blocks: &Blocks) -> Blocks {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("ssse3") {
        // SAFETY: the processor has SSSE3.
        return unsafe { x86::pick(blocks, &const { x86::places(&ORDERS[ORDER]) }) };
    }
    let byte = |i: usize| blocks.as_flattened()[ORDERS[ORDER][i]];
    std::array::from_fn(|block| std::array::from_fn(|i| byte(16 * block + i)))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256, _mm_or_si128, _mm_shuffle_epi8, _mm256_permute2f128_ps, _mm256_shuffle_ps,
        _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    };
    use std::mem::transmute;

    use super::{Blocks, SIDE};

    // Without closures: what they are passed to is compiled without these instructions.

    #[inline]
    #[target_feature(enable = "avx")]
    pub(super) fn transpose(square: &[[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
        // SAFETY: both are 256 bytes for which every bit pattern is valid.
        let r: [__m256; SIDE] = unsafe { transmute(*square) };
        let [a, b] =
            [columns_of_four(r[0], r[1], r[2], r[3]), columns_of_four(r[4], r[5], r[6], r[7])];
        let mut out = r;
        for i in 0..SIDE / 2 {
            out[i] = _mm256_permute2f128_ps::<0x20>(a[i], b[i]);
            out[i + SIDE / 2] = _mm256_permute2f128_ps::<0x31>(a[i], b[i]);
        }
        // SAFETY: as above.
        unsafe { transmute(out) }
    }

    /// Columns `i` and, in the upper half, `i + 4` of four rows.
    #[inline]
    #[target_feature(enable = "avx")]
    fn columns_of_four(a: __m256, b: __m256, c: __m256, d: __m256) -> [__m256; 4] {
        let (low_ab, high_ab) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (low_cd, high_cd) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0x44>(low_ab, low_cd),
            _mm256_shuffle_ps::<0xee>(low_ab, low_cd),
            _mm256_shuffle_ps::<0x44>(high_ab, high_cd),
            _mm256_shuffle_ps::<0xee>(high_ab, high_cd),
        ]
    }

    /// For each block of the result and each block it is picked from: which element goes where.
    type Places = [Blocks; 3];

    pub(super) const fn places(order: &[usize; 48]) -> Places {
        let nothing = 0x80;
        let mut places = [[[nothing; 16]; 3]; 3];
        let mut i = 0;
        while i < 48 {
            places[i / 16][order[i] / 16][i % 16] = (order[i] % 16) as u8;
            i += 1;
        }
        places
    }

    #[inline]
    #[target_feature(enable = "ssse3")]
    pub(super) fn pick(blocks: &Blocks, places: &Places) -> Blocks {
        // SAFETY: both are arrays of bytes of the same size.
        let [a, b, c]: [__m128i; 3] = unsafe { transmute(*blocks) };
        // SAFETY: as above.
        let places: [[__m128i; 3]; 3] = unsafe { transmute(*places) };
        let mut picked = [a; 3];
        for (block, [from_a, from_b, from_c]) in picked.iter_mut().zip(places) {
            let ab = _mm_or_si128(_mm_shuffle_epi8(a, from_a), _mm_shuffle_epi8(b, from_b));
            *block = _mm_or_si128(ab, _mm_shuffle_epi8(c, from_c));
        }
        // SAFETY: as above.
        unsafe { transmute(picked) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_exchanges_rows_and_columns() {
        let square: [[f32; SIDE]; SIDE] =
            std::array::from_fn(|y| std::array::from_fn(|x| (10 * y + x) as f32));
        let transposed = transpose(&square);
        for (y, row) in square.iter().enumerate() {
            for (x, value) in row.iter().enumerate() {
                assert_eq!(transposed[x][y], *value);
            }
        }
    }

    #[test]
    fn sixteen_pixels_are_reversed() {
        let pixels: [[u8; 3]; 16] = std::array::from_fn(|i| [0, 1, 2].map(|c| (3 * i + c) as u8));
        let mut blocks = [[0; 16]; 3];
        blocks.as_flattened_mut().copy_from_slice(pixels.as_flattened());
        let reversed = reverse_pixels(&blocks);
        assert!(pixels.iter().rev().flatten().eq(reversed.as_flattened()));
    }

    #[test]
    fn interleaving_takes_one_of_each_in_turn() {
        let blocks = [0, 1, 2].map(|a| std::array::from_fn(|i| (3 * i + a) as u8));
        assert!(interleave(&blocks).as_flattened().iter().copied().eq(0..48));
    }
}
