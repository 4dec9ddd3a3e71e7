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
    fn transpose_bytes(self, square: &[[u8; SIDE]; SIDE]) -> [[u8; SIDE]; SIDE];

    /// One element of each array in turn.
    fn interleave(self, arrays: &[[u8; 16]; 3]) -> [u8; 48];

    /// Sixteen pixels (three bytes each) in reverse order.
    fn reverse_pixels(self, pixels: &[u8; 48]) -> [u8; 48];
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

/// What every processor can do.
#[derive(Clone, Copy, Debug)]
struct Portable;

impl Shuffle for Portable {
    #[inline(always)]
    fn transpose<T: Word>(self, square: &[[T; SIDE]; SIDE]) -> [[T; SIDE]; SIDE] {
        transposed(square)
    }

    #[inline(always)]
    fn transpose_bytes(self, square: &[[u8; SIDE]; SIDE]) -> [[u8; SIDE]; SIDE] {
        transposed(square)
    }

    #[inline(always)]
    fn interleave(self, arrays: &[[u8; 16]; 3]) -> [u8; 48] {
        std::array::from_fn(|i| arrays[i % 3][i / 3])
    }

    #[inline(always)]
    fn reverse_pixels(self, pixels: &[u8; 48]) -> [u8; 48] {
        std::array::from_fn(|i| pixels[45 - i / 3 * 3 + i % 3])
    }
}

#[inline(always)]
fn transposed<T: Copy + Default>(square: &[[T; SIDE]; SIDE]) -> [[T; SIDE]; SIDE] {
    let mut out = [[T::default(); SIDE]; SIDE];
    for (x, row) in square.iter().enumerate() {
        for (to, &element) in out.iter_mut().zip(row) {
            to[x] = element;
        }
    }
    out
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256, _mm_or_si128, _mm_shuffle_epi8, _mm_unpackhi_epi8, _mm_unpacklo_epi8,
        _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    };
    use std::mem::{transmute, transmute_copy};

    use super::{SIDE, Shuffle, Word};

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
        fn transpose_bytes(self, square: &[[u8; SIDE]; SIDE]) -> [[u8; SIDE]; SIDE] {
            // SAFETY: as above.
            unsafe { transpose_bytes(square) }
        }

        #[inline(always)]
        fn interleave(self, arrays: &[[u8; 16]; 3]) -> [u8; 48] {
            // SAFETY: as above.
            unsafe { interleave(arrays) }
        }

        #[inline(always)]
        fn reverse_pixels(self, pixels: &[u8; 48]) -> [u8; 48] {
            // SAFETY: as above.
            unsafe { reverse_pixels(pixels) }
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
    fn transpose_bytes(square: &[[u8; SIDE]; SIDE]) -> [[u8; SIDE]; SIDE] {
        // SAFETY: both are 64 bytes for which every bit pattern is valid.
        let mut bytes: [__m128i; 4] = unsafe { transmute(*square) };
        // A round interleaves the two halves of all bytes: the highest bit of a byte's place becomes
        // the lowest. After three, the number of the row is where that of the column was.
        for _ in 0..3 {
            let [a, b, c, d] = bytes;
            bytes = [
                _mm_unpacklo_epi8(a, c),
                _mm_unpackhi_epi8(a, c),
                _mm_unpacklo_epi8(b, d),
                _mm_unpackhi_epi8(b, d),
            ];
        }
        // SAFETY: as above.
        unsafe { transmute(bytes) }
    }

    /// For each sixteen bytes of the output and of the input: which byte goes where.
    type Places = [[[u8; 16]; 3]; 3];

    /// Of three arrays, one element each in turn.
    const INTERLEAVED: Places = {
        let mut places = [[[0x80; 16]; 3]; 3];
        let mut i = 0;
        while i < 48 {
            places[i / 16][i % 3][i % 16] = (i / 3) as u8;
            i += 1;
        }
        places
    };

    /// Of sixteen pixels, the last first.
    const REVERSED: Places = {
        let mut places = [[[0x80; 16]; 3]; 3];
        let mut i = 0;
        while i < 48 {
            let from = 45 - i / 3 * 3 + i % 3;
            places[i / 16][from / 16][i % 16] = (from % 16) as u8;
            i += 1;
        }
        places
    };

    #[inline]
    #[target_feature(enable = "avx")]
    fn interleave(arrays: &[[u8; 16]; 3]) -> [u8; 48] {
        place(arrays, &INTERLEAVED)
    }

    #[inline]
    #[target_feature(enable = "avx")]
    fn reverse_pixels(pixels: &[u8; 48]) -> [u8; 48] {
        // SAFETY: both are arrays of bytes of the same size.
        place(&unsafe { transmute::<[u8; 48], [[u8; 16]; 3]>(*pixels) }, &REVERSED)
    }

    #[inline]
    #[target_feature(enable = "avx")]
    fn place(input: &[[u8; 16]; 3], places: &Places) -> [u8; 48] {
        // SAFETY: as above.
        let [a, b, c]: [__m128i; 3] = unsafe { transmute(*input) };
        // SAFETY: as above.
        let places: [[__m128i; 3]; 3] = unsafe { transmute(*places) };
        let mut output = [a; 3];
        for (output, [from_a, from_b, from_c]) in output.iter_mut().zip(places) {
            let ab = _mm_or_si128(_mm_shuffle_epi8(a, from_a), _mm_shuffle_epi8(b, from_b));
            *output = _mm_or_si128(ab, _mm_shuffle_epi8(c, from_c));
        }
        // SAFETY: as above.
        unsafe { transmute(output) }
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
        let square = square.map(|row: [i32; SIDE]| row.map(|element| element as u8));
        let expected = expected.map(|row: [i32; SIDE]| row.map(|element| element as u8));
        assert_eq!(Portable.transpose_bytes(&square), expected);
    }

    #[test]
    fn sixteen_pixels_are_reversed() {
        let reversed = Portable.reverse_pixels(&std::array::from_fn(|i| i as u8));
        assert_eq!(reversed[..6], [45, 46, 47, 42, 43, 44]);
        assert_eq!(reversed[42..], [3, 4, 5, 0, 1, 2]);
    }

    #[test]
    fn interleaving_takes_one_of_each_in_turn() {
        let arrays = [0, 1, 2].map(|a| std::array::from_fn(|i| (3 * i + a) as u8));
        assert!(Portable.interleave(&arrays).into_iter().eq(0..48));
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
                let square = std::array::from_fn(|y| {
                    std::array::from_fn(|x| bits(100 + SIDE * y + x) as u8)
                });
                assert_eq!(shuffle.transpose_bytes(&square), Portable.transpose_bytes(&square));
                let arrays: [[u8; 16]; 3] = std::array::from_fn(|array| {
                    std::array::from_fn(|i| bits(1000 + 16 * array + i) as u8)
                });
                assert_eq!(shuffle.interleave(&arrays), Portable.interleave(&arrays));
                let pixels = arrays.as_flattened().first_chunk().expect("48 bytes");
                assert_eq!(shuffle.reverse_pixels(pixels), Portable.reverse_pixels(pixels));
            }
        }
    }

    #[test]
    fn the_processors_own_shuffles_give_what_the_portable_ones_give() {
        Kernel::run(Shuffled(Compare));
    }
}
