//! The sum of what several ranks hold, into the memory of one of them.
//!
//! One pass without temporaries, and one rounding whatever the number of ranks. The module does not
//! know how the ranks came to see each other's memory.

use super::real::Real;
use super::simd::{self, Kernel};
use rayon::prelude::*;

/// Elements per task: a few tasks for each thread of a large bucket.
const TASK: usize = 1 << 16;

/// Elements summed together: the running sums of a block stay in registers or the first cache.
const BLOCK: usize = 256;

/// Replaces `out` by the sum of `before`, itself and `after`, added in this order in the wide type.
///
/// # Panics
/// If the lengths differ.
pub fn sum_into<T: Real>(before: &[&[T]], out: &mut [T], after: &[&[T]]) {
    let len = out.len();
    assert!(
        before.iter().chain(after).all(|part| part.len() == len),
        "sum: every part must have {len} elements"
    );
    out.par_chunks_mut(TASK).enumerate().for_each(|(task, out)| {
        simd::run(Sum { before, out, after, first: task * TASK });
    });
}

struct Sum<'a, T> {
    before: &'a [&'a [T]],
    out: &'a mut [T],
    after: &'a [&'a [T]],
    /// Where `out` starts in the parts.
    first: usize,
}

impl<T: Real> Kernel for Sum<'_, T> {
    #[inline(always)]
    fn run(self) {
        for (index, out) in self.out.chunks_mut(BLOCK).enumerate() {
            let first = self.first + index * BLOCK;
            let mut sums = [<T::Wide as Real>::ZERO; BLOCK];
            let sums = &mut sums[..out.len()];
            self.before.iter().for_each(|part| add(sums, &part[first..]));
            add(sums, out);
            self.after.iter().for_each(|part| add(sums, &part[first..]));
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = T::narrow(*sum);
            }
        }
    }
}

#[inline(always)]
fn add<T: Real>(sums: &mut [T::Wide], part: &[T]) {
    for (sum, x) in sums.iter_mut().zip(part) {
        *sum = *sum + x.widen();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn parts_are_added_in_order_with_one_rounding() {
        // 256 + 1 + 1 is 258 in bf16; with a rounding after each addition it would stay 256.
        let ones = vec![bf16::ONE; 3 * TASK + 7];
        let mut out = vec![bf16::from_f32(256.0); ones.len()];
        sum_into(&[&ones], &mut out, &[&ones]);
        assert!(out.iter().all(|x| x.to_f32() == 258.0));
    }

    #[test]
    fn every_element_meets_its_own() {
        let part = |scale: f64| (0..TASK + 300).map(|i| i as f64 * scale).collect::<Vec<_>>();
        let (mut out, first, second) = (part(1.0), part(100.0), part(10_000.0));
        sum_into(&[&first, &second], &mut out, &[]);
        assert_eq!(out, part(10_101.0));
    }

    #[test]
    #[should_panic(expected = "every part")]
    fn parts_of_another_length_are_refused() {
        sum_into(&[&[1.0f32]], &mut [1.0, 2.0], &[]);
    }
}
