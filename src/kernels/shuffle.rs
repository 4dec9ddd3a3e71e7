//! Shuffles that the compiler does not find by itself. FFI: the processor's shuffle instructions.
//!
//! A [`Shuffling`] kernel is compiled once for each implementation of [`Shuffle`] and chooses when it
//! starts: a choice at each shuffle would keep vectors from staying in registers. The portable
//! implementation says what each shuffle does, and tests hold the fast one to it. The module does
//! not know what is shuffled.
#![allow(unsafe_code)]

use super::simd::Kernel;

/// The side of the squares that are transposed.
pub(crate) const SIDE: usize = 8;

/// An element of four bytes.
///
/// # Safety
/// Any four bytes are a value, and any value is four bytes.
pub(crate) unsafe trait Word: Copy + Default {}

// SAFETY: a number without padding or invalid values.
unsafe impl Word for f32 {}
// SAFETY: a number without padding or invalid values.
unsafe impl Word for i32 {}

/// What can be shuffled.
pub(crate) trait Shuffle: Copy {
    /// Rows become columns.
    fn transpose<T: Word>(self, square: &[[T; SIDE]; SIDE]) -> [[T; SIDE]; SIDE];

    /// Rows become columns.
    fn transpose_bytes(self, block: &[[u8; SIDE]; 16]) -> [[u8; 16]; SIDE];

    /// One element of each array in turn, in three blocks.
    fn interleave(self, arrays: &[[u8; 16]; 3]) -> [[u8; 16]; 3];

    /// The last five pixels (three bytes each) of a block in reverse order, and any byte.
    fn reverse_pixels(self, block: [u8; 16]) -> [u8; 16];
}

/// A kernel that shuffles. What holds for [`Kernel`] holds for it.
pub(crate) trait Shuffling {
    /// Does the work.
    fn run(self, shuffle: impl Shuffle);
}

/// A [`Shuffling`] kernel with the fastest shuffles of this processor.
pub(crate) struct Shuffled<K>(pub(crate) K);

impl<K: Shuffling> Kernel for Shuffled<K> {
    #[inline(always)]
    fn run(self) {
        #[cfg(target_arch = "x86_64")]
        if let Some(shuffle) = x86::Avx::detect() {
            return self.0.run(shuffle);
        }
        self.0.run(Portable);
    }
}

/// Where the bytes of reversed pixels come from; the last may come from anywhere.
const REVERSED: [u8; 16] = [13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3, 0];

/// What every processor can do.
#[derive(Clone, Copy, Debug)]
struct Portable;

impl Shuffle for Portable {
    #[inline(always)]
    fn transpose<T: Word>(self, square: &[[T; SIDE]; SIDE]) -> [[T; SIDE]; SIDE] {
        let mut out = [[T::default(); SIDE]; SIDE];
        for (x, row) in square.iter().enumerate() {
            for (to, &element) in out.iter_mut().zip(row) {
                to[x] = element;
            }
        }
        out
    }

    #[inline(always)]
    fn transpose_bytes(self, block: &[[u8; SIDE]; 16]) -> [[u8; 16]; SIDE] {
        let mut out = [[0; 16]; SIDE];
        for (x, row) in block.iter().enumerate() {
            for (to, &byte) in out.iter_mut().zip(row) {
                to[x] = byte;
            }
        }
        out
    }

    #[inline(always)]
    fn interleave(self, arrays: &[[u8; 16]; 3]) -> [[u8; 16]; 3] {
        let mut out = [[0; 16]; 3];
        for (i, to) in out.as_flattened_mut().iter_mut().enumerate() {
            *to = arrays[i % 3][i / 3];
        }
        out
    }

    #[inline(always)]
    fn reverse_pixels(self, block: [u8; 16]) -> [u8; 16] {
        REVERSED.map(|from| block[usize::from(from)])
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256, _mm_or_si128, _mm_shuffle_epi8, _mm_unpackhi_epi8, _mm_unpacklo_epi8,
        _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    };
    use std::mem::{transmute, transmute_copy};

    use super::{REVERSED, SIDE, Shuffle, Word};

    /// The knowledge that the processor has AVX.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Avx(());

    impl Avx {
        #[inline(always)]
        pub(super) fn detect() -> Option<Self> {
            is_x86_feature_detected!("avx").then_some(Self(()))
        }
    }

    impl Shuffle for Avx {
        #[inline(always)]
        fn transpose<T: Word>(self, square: &[[T; SIDE]; SIDE]) -> [[T; SIDE]; SIDE] {
            // SAFETY: the processor has AVX, or there would be no `self`.
            unsafe { transpose(square) }
        }

        #[inline(always)]
        fn transpose_bytes(self, block: &[[u8; SIDE]; 16]) -> [[u8; 16]; SIDE] {
            // SAFETY: as above.
            unsafe { transpose_bytes(block) }
        }

        #[inline(always)]
        fn interleave(self, arrays: &[[u8; 16]; 3]) -> [[u8; 16]; 3] {
            // SAFETY: as above.
            unsafe { interleave(arrays) }
        }

        #[inline(always)]
        fn reverse_pixels(self, block: [u8; 16]) -> [u8; 16] {
            // SAFETY: as above.
            unsafe { reverse_pixels(block) }
        }
    }

    // Without closures: what they are passed to is compiled without these instructions.

    #[inline]
    #[target_feature(enable = "avx")]
    fn transpose<T: Word>(square: &[[T; SIDE]; SIDE]) -> [[T; SIDE]; SIDE] {
        // SAFETY: both are 256 bytes for which every bit pattern is valid.
        let r: [__m256; SIDE] = unsafe { transmute_copy(square) };
        let [a, b] =
            [columns_of_four(r[0], r[1], r[2], r[3]), columns_of_four(r[4], r[5], r[6], r[7])];
        let mut out = r;
        for i in 0..SIDE / 2 {
            out[i] = _mm256_permute2f128_ps::<0x20>(a[i], b[i]);
            out[i + SIDE / 2] = _mm256_permute2f128_ps::<0x31>(a[i], b[i]);
        }
        // SAFETY: as above.
        unsafe { transmute_copy(&out) }
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

    #[inline]
    #[target_feature(enable = "avx")]
    fn transpose_bytes(block: &[[u8; SIDE]; 16]) -> [[u8; 16]; SIDE] {
        // SAFETY: both are 128 bytes for which every bit pattern is valid.
        let mut bytes: [__m128i; SIDE] = unsafe { transmute(*block) };
        // A round interleaves the two halves of all bytes: the highest bit of a byte's place becomes
        // the lowest. After four, the number of the row is where that of the column was.
        for _ in 0..4 {
            let from = bytes;
            for i in 0..SIDE / 2 {
                bytes[2 * i] = _mm_unpacklo_epi8(from[i], from[i + SIDE / 2]);
                bytes[2 * i + 1] = _mm_unpackhi_epi8(from[i], from[i + SIDE / 2]);
            }
        }
        // SAFETY: as above.
        unsafe { transmute(bytes) }
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
    #[target_feature(enable = "avx")]
    fn interleave(arrays: &[[u8; 16]; 3]) -> [[u8; 16]; 3] {
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
    #[target_feature(enable = "avx")]
    fn reverse_pixels(block: [u8; 16]) -> [u8; 16] {
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
        let element = |y: usize, x: usize| (20 * y + x) as i32;
        let square = std::array::from_fn(|y| std::array::from_fn(|x| element(y, x)));
        let expected = std::array::from_fn(|y| std::array::from_fn(|x| element(x, y)));
        assert_eq!(Portable.transpose::<i32>(&square), expected);
        let byte = |y: usize, x: usize| (10 * y + x) as u8;
        let block = std::array::from_fn(|y| std::array::from_fn(|x| byte(y, x)));
        let expected: [[u8; 16]; SIDE] =
            std::array::from_fn(|y| std::array::from_fn(|x| byte(x, y)));
        assert_eq!(Portable.transpose_bytes(&block), expected);
    }

    #[test]
    fn five_pixels_are_reversed() {
        let reversed = Portable.reverse_pixels(std::array::from_fn(|i| i as u8));
        assert_eq!(reversed[..15], [13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3]);
    }

    #[test]
    fn interleaving_takes_one_of_each_in_turn() {
        let arrays = [0, 1, 2].map(|a| std::array::from_fn(|i| (3 * i + a) as u8));
        assert!(Portable.interleave(&arrays).as_flattened().iter().copied().eq(0..48));
    }

    /// Compares an implementation with the portable one, on any bits.
    struct Compare;

    impl Shuffling for Compare {
        fn run(self, shuffle: impl Shuffle) {
            for round in 0..1000 {
                let key = Key::new(1, Purpose::Generate).with(round);
                let bits = |index: usize| key.bits(index as u64);
                // Those of signalling NaNs, too, pass unchanged.
                let square: [[f32; SIDE]; SIDE] = std::array::from_fn(|y| {
                    std::array::from_fn(|x| f32::from_bits(bits(SIDE * y + x) as u32))
                });
                let to_bits = |square: [[f32; SIDE]; SIDE]| square.map(|row| row.map(f32::to_bits));
                let transposed = [shuffle.transpose(&square), Portable.transpose(&square)];
                let [fast, slow] = transposed.map(to_bits);
                assert_eq!(fast, slow);
                let block = std::array::from_fn(|y| {
                    std::array::from_fn(|x| bits(100 + SIDE * y + x) as u8)
                });
                assert_eq!(shuffle.transpose_bytes(&block), Portable.transpose_bytes(&block));
                let arrays: [[u8; 16]; 3] = std::array::from_fn(|array| {
                    std::array::from_fn(|i| bits(1000 + 16 * array + i) as u8)
                });
                assert_eq!(shuffle.interleave(&arrays), Portable.interleave(&arrays));
                let reversed =
                    [shuffle.reverse_pixels(arrays[0]), Portable.reverse_pixels(arrays[0])];
                let [fast, slow] = reversed;
                assert_eq!(fast[..15], slow[..15]);
            }
        }
    }

    #[test]
    fn the_processors_own_shuffles_give_what_the_portable_ones_give() {
        Kernel::run(Shuffled(Compare));
    }
}
