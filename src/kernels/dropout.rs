//! Dropout whose mask is a pure function of (row key, unit).
//!
//! Nothing is saved between the passes: backward applies the same function to the gradient. A shard
//! of the units on one device drops what the whole layer would drop there. The module does not know
//! where keys come from.

use super::real::{Real, Wide};
use super::simd::{self, Kernel};
use crate::random::Key;
use rayon::prelude::*;
use std::ops::Range;

/// Zeroes units and scales the others.
///
/// The paper (section 4.2) has rate 1/2 and scale 1 in training, and halves the outputs in testing;
/// "inverted" dropout has scale 1 / (1 - rate) in training and nothing in testing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The probability that a unit is dropped, in 0..=1.
    pub rate: f64,
    /// The factor of the units kept.
    pub scale: f64,
}

impl Dropout {
    /// y = scale x where the unit is kept and 0 where it is dropped (even a NaN); `x` and `y` are
    /// [rows, units].
    ///
    /// `units` are the positions of a row's elements in the whole layer: a shard that holds the
    /// second half of 4096 units passes `2048..4096`.
    ///
    /// # Panics
    /// If the lengths differ or are no multiple of the number of units, or `rate` is not in 0..=1.
    pub fn apply<T: Real>(
        &self,
        x: &[T],
        y: &mut [T],
        units: Range<u64>,
        key_of_row: impl Fn(usize) -> Key + Sync,
    ) {
        let num_units = self.check(x.len(), y.len(), &units);
        let rows = y.par_chunks_mut(num_units).zip(x.par_chunks(num_units)).enumerate();
        let (threshold, scale) = (self.threshold(), T::Wide::from_f64(self.scale));
        rows.for_each(|(row, (y, x))| {
            let key = key_of_row(row);
            simd::run(Row { x, y, key, first_unit: units.start, threshold, scale });
        });
    }

    /// Checks the lengths of input and output; the number of units of a row.
    pub(super) fn check(&self, num_inputs: usize, num_outputs: usize, units: &Range<u64>) -> usize {
        let num_units = usize::try_from(units.end.saturating_sub(units.start)).unwrap_or(0);
        assert_eq!(
            num_inputs, num_outputs,
            "dropout: the output must have the length of the input"
        );
        assert!(
            num_units > 0 && num_inputs.is_multiple_of(num_units),
            "dropout: {num_inputs} elements are not whole rows of {num_units} units"
        );
        num_units
    }

    /// The number of the 2^32 draws that drop a unit.
    pub(super) fn threshold(&self) -> u64 {
        threshold(self.rate)
    }
}

/// Whether `unit` of the row of `key` is kept at this rate.
///
/// # Panics
/// If `rate` is not in 0..=1.
#[must_use]
pub fn mask(key: Key, unit: u64, rate: f64) -> bool {
    is_kept(key, unit, threshold(rate))
}

#[inline(always)]
fn is_kept(key: Key, unit: u64, threshold: u64) -> bool {
    key.bits(unit) >> 32 >= threshold
}

/// The number of the 2^32 draws that drop a unit.
fn threshold(rate: f64) -> u64 {
    assert!((0.0..=1.0).contains(&rate), "dropout: a rate of {rate} is not a probability");
    (rate * (1u64 << 32) as f64).round() as u64
}

struct Row<'a, T: Real> {
    x: &'a [T],
    y: &'a mut [T],
    key: Key,
    first_unit: u64,
    threshold: u64,
    scale: T::Wide,
}

impl<T: Real> Kernel for Row<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Self { x, y, key, first_unit, threshold, scale } = self;
        for (index, (y, x)) in y.iter_mut().zip(x).enumerate() {
            let kept = is_kept(key, first_unit + index as u64, threshold);
            let scaled = T::narrow(x.widen() * scale);
            *y = if kept { scaled } else { T::ZERO };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;
    use half::bf16;

    fn key_of_row(row: usize) -> Key {
        Key::new(5, Purpose::Dropout).with(row as u64)
    }

    const HALF: Dropout = Dropout { rate: 0.5, scale: 2.0 };

    #[test]
    fn kept_units_are_scaled_and_dropped_units_are_zero() {
        let x: Vec<f32> = (0..3 * 101).map(|i| i as f32 + 0.5).collect();
        let mut y = vec![f32::NAN; x.len()];
        HALF.apply(&x, &mut y, 7..108, key_of_row);
        for (i, (x, y)) in x.iter().zip(&y).enumerate() {
            let kept = mask(key_of_row(i / 101), 7 + (i % 101) as u64, 0.5);
            assert_eq!(*y, if kept { 2.0 * x } else { 0.0 }, "element {i}");
        }
    }

    #[test]
    fn a_shard_drops_what_the_whole_layer_drops_there() {
        let (mut whole, mut shard) = (vec![0.0f64; 2 * 64], vec![0.0f64; 2 * 32]);
        HALF.apply(&[1.0; 2 * 64], &mut whole, 0..64, key_of_row);
        HALF.apply(&[1.0; 2 * 32], &mut shard, 32..64, key_of_row);
        assert_eq!(whole[32..64], shard[..32]);
        assert_eq!(whole[96..], shard[32..]);
    }

    #[test]
    fn the_share_of_dropped_units_is_the_rate_within_four_standard_deviations() {
        for rate in [0.0, 0.1, 0.5, 0.9, 1.0] {
            let mut y = vec![bf16::ZERO; 200_000];
            let ones = vec![bf16::ONE; y.len()];
            Dropout { rate, scale: 1.0 }.apply(&ones, &mut y, 0..1000, key_of_row);
            let dropped = y.iter().filter(|y| **y == bf16::ZERO).count() as f64 / y.len() as f64;
            let deviation = (rate * (1.0 - rate) / y.len() as f64).sqrt();
            assert!((dropped - rate).abs() <= 4.0 * deviation, "{dropped} for {rate}");
        }
    }

    #[test]
    fn a_dropped_nan_is_zero() {
        let mut y = [1.0f32; 8];
        Dropout { rate: 1.0, scale: 1.0 }.apply(&[f32::NAN; 8], &mut y, 0..8, key_of_row);
        assert_eq!(y, [0.0; 8]);
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let x: Vec<f32> = (0..500 * 33).map(|i| i as f32).collect();
        let with_threads = |num_threads| {
            let mut y = vec![0.0; x.len()];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build();
            let pool = pool.expect("threads start");
            pool.install(|| HALF.apply(&x, &mut y, 0..33, key_of_row));
            y
        };
        assert_eq!(with_threads(1), with_threads(3));
    }

    #[test]
    #[should_panic(expected = "not a probability")]
    fn a_rate_above_one_is_refused() {
        let _ = mask(key_of_row(0), 0, 1.5);
    }
}
