//! Shuffles that the compiler does not find by itself. FFI: the processor's shuffle instructions.
//!
//! Each has a portable form that says what it does, and that tests hold the fast one to; the choice
//! is made at each call, by a flag that stays in the cache. The module does not know what is shuffled.
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
    portable::transpose(square)
}

/// One element of each array in turn, in three blocks.
#[inline(always)]
pub(crate) fn interleave(arrays: &[[u8; 16]; 3]) -> [[u8; 16]; 3] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("ssse3") {
        // SAFETY: the processor has SSSE3.
        return unsafe { x86::interleave(arrays) };
    }
    portable::interleave(arrays)
}

/// The last five pixels (three bytes each) of a block in reverse order, and any byte.
#[inline(always)]
pub(crate) fn reverse_pixels(block: [u8; 16]) -> [u8; 16] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("ssse3") {
        // SAFETY: the processor has SSSE3.
        return unsafe { x86::reverse_pixels(block) };
    }
    portable::reverse_pixels(block)
}

/// Where the bytes of [`reverse_pixels`] come from; the last may come from anywhere.
const REVERSED: [u8; 16] = [13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3, 0];

/// What every processor can do.
mod portable {
    use super::{REVERSED, SIDE};

    #[inline(always)]
    pub(super) fn transpose(square: &[[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
        std::array::from_fn(|y| std::array::from_fn(|x| square[x][y]))
    }

    #[inline(always)]
    pub(super) fn interleave(arrays: &[[u8; 16]; 3]) -> [[u8; 16]; 3] {
        let element = |i: usize| arrays[i % 3][i / 3];
        std::array::from_fn(|block| std::array::from_fn(|i| element(16 * block + i)))
    }

    #[inline(always)]
    pub(super) fn reverse_pixels(block: [u8; 16]) -> [u8; 16] {
        REVERSED.map(|from| block[usize::from(from)])
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256, _mm_or_si128, _mm_shuffle_epi8, _mm256_permute2f128_ps, _mm256_shuffle_ps,
        _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    };
    use std::mem::transmute;

    use super::{REVERSED, SIDE};

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

    /// For each of three blocks of the output and each array: which element goes where.
    const PLACES: [[[u8; 16]; 3]; 3] = {
        let mut places = [[[0x80; 16]; 3]; 3];
        let mut i = 0;
        while i < 48 {
            places[i / 16][i % 3][i % 16] = (i / 3) as u8;
            i += 1;
        }
        places
    };

    #[inline]
    #[target_feature(enable = "ssse3")]
    pub(super) fn interleave(arrays: &[[u8; 16]; 3]) -> [[u8; 16]; 3] {
        // SAFETY: both are arrays of bytes of the same size.
        let [a, b, c]: [__m128i; 3] = unsafe { transmute(*arrays) };
        // SAFETY: as above.
        let places: [[__m128i; 3]; 3] = unsafe { transmute(PLACES) };
        let mut blocks = [a; 3];
        for (block, [from_a, from_b, from_c]) in blocks.iter_mut().zip(places) {
            let ab = _mm_or_si128(_mm_shuffle_epi8(a, from_a), _mm_shuffle_epi8(b, from_b));
            *block = _mm_or_si128(ab, _mm_shuffle_epi8(c, from_c));
        }
        // SAFETY: both are arrays of bytes of the same size.
        unsafe { transmute(blocks) }
    }

    #[inline]
    #[target_feature(enable = "ssse3")]
    pub(super) fn reverse_pixels(block: [u8; 16]) -> [u8; 16] {
        // SAFETY: both are arrays of bytes of the same size.
        let block: __m128i = unsafe { transmute(block) };
        // SAFETY: as above.
        let places: __m128i = unsafe { transmute(REVERSED) };
        // SAFETY: as above.
        unsafe { transmute(_mm_shuffle_epi8(block, places)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    #[test]
    fn transposing_exchanges_rows_and_columns() {
        let square: [[f32; SIDE]; SIDE] =
            std::array::from_fn(|y| std::array::from_fn(|x| (10 * y + x) as f32));
        for transposed in [transpose(&square), portable::transpose(&square)] {
            for (y, row) in square.iter().enumerate() {
                for (x, value) in row.iter().enumerate() {
                    assert_eq!(transposed[x][y], *value);
                }
            }
        }
    }

    #[test]
    fn five_pixels_are_reversed() {
        let block = std::array::from_fn(|i| i as u8);
        for reversed in [reverse_pixels(block), portable::reverse_pixels(block)] {
            assert_eq!(reversed[..15], [13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3]);
        }
    }

    #[test]
    fn interleaving_takes_one_of_each_in_turn() {
        let arrays = [0, 1, 2].map(|a| std::array::from_fn(|i| (3 * i + a) as u8));
        for blocks in [interleave(&arrays), portable::interleave(&arrays)] {
            assert!(blocks.as_flattened().iter().copied().eq(0..48));
        }
    }

    #[test]
    fn the_processors_own_shuffles_give_what_the_portable_ones_give() {
        for round in 0..1000 {
            let key = Key::new(1, Purpose::Generate).with(round);
            // Any bits, also those of signalling NaNs, pass unchanged.
            let square: [[f32; SIDE]; SIDE] = std::array::from_fn(|y| {
                std::array::from_fn(|x| f32::from_bits(key.bits((SIDE * y + x) as u64) as u32))
            });
            let bits = |square: [[f32; SIDE]; SIDE]| square.map(|row| row.map(f32::to_bits));
            assert_eq!(bits(transpose(&square)), bits(portable::transpose(&square)));
            let byte = |index: usize| key.bits(1000 + index as u64) as u8;
            let arrays = [0, 16, 32].map(|first| std::array::from_fn(|i| byte(first + i)));
            assert_eq!(interleave(&arrays), portable::interleave(&arrays));
            let (fast, slow) = (reverse_pixels(arrays[0]), portable::reverse_pixels(arrays[0]));
            assert_eq!(fast[..15], slow[..15]);
        }
    }
}
