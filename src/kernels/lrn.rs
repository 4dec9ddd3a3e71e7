//! Local response normalisation across channels, forward and backward (paper, section 3.3).
//!
//! Works on channels-last pixels, one group of channels at a time, so that the window never crosses
//! from one column of the network into the other. The denominators are recomputed in the backward
//! pass rather than stored. The module does not know where the pixels lie in an image.

use super::normaliser::{Identity, Normaliser};
use super::real::Real;
use super::simd::{self, Kernel};
use rayon::prelude::*;

pub use super::normaliser::Lrn;

/// The least number of pixels worth a task of its own.
const MIN_TASK_PIXELS: usize = 64;

impl Lrn {
    /// Normalises `x` into `y`, both [pixels, channels], within each of `groups` equal groups.
    ///
    /// # Panics
    /// If the lengths differ or are no multiple of `channels`, or `channels` is none of `groups`.
    pub fn forward<T: Real>(&self, x: &[T], y: &mut [T], channels: usize, groups: usize) {
        self.check(&[x.len(), y.len()], channels, groups);
        let task = task_elements(x.len(), channels);
        let group_channels = channels / groups;
        y.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(y, x)| {
            simd::run(Forward { normaliser: Normaliser::new(self, group_channels), x, y });
        });
    }

    /// From the forward input `x` and the gradient `dy` of the output, the gradient `dx` of the
    /// input; all [pixels, channels].
    ///
    /// dx_i = dy_i d_i^-beta - 2 alpha beta x_i * sum of dy_j x_j d_j^(-beta - 1) over i's window,
    /// with d the denominator before its power.
    ///
    /// # Panics
    /// As [`Lrn::forward`].
    pub fn backward<T: Real>(
        &self,
        x: &[T],
        dy: &[T],
        dx: &mut [T],
        channels: usize,
        groups: usize,
    ) {
        self.check(&[x.len(), dy.len(), dx.len()], channels, groups);
        let task = task_elements(x.len(), channels);
        let group_channels = channels / groups;
        dx.par_chunks_mut(task).zip(x.par_chunks(task).zip(dy.par_chunks(task))).for_each(
            |(dx, (x, dy))| {
                simd::run(Backward { normaliser: Normaliser::new(self, group_channels), x, dy, dx })
            },
        );
    }

    /// Refuses arrays that are not equally many whole pixels, and groups that do not divide them.
    pub(super) fn check(&self, lengths: &[usize], channels: usize, groups: usize) {
        self.check_size();
        assert!(
            lengths.iter().all(|len| *len == lengths[0]),
            "lrn: inputs, outputs and gradients must be equally long, not {lengths:?}"
        );
        assert!(
            channels > 0 && lengths[0].is_multiple_of(channels),
            "lrn: {} elements are not whole pixels of {channels} channels",
            lengths[0]
        );
        assert!(
            groups > 0 && channels.is_multiple_of(groups),
            "lrn: {channels} channels do not divide into {groups} groups"
        );
    }
}

/// The number of elements of a task: whole pixels, several tasks per thread to even out their pace.
fn task_elements(num_elements: usize, channels: usize) -> usize {
    let pixels = num_elements / channels;
    pixels.div_ceil(8 * rayon::current_num_threads()).max(MIN_TASK_PIXELS) * channels
}

struct Forward<'a, T: Real> {
    normaliser: Normaliser<T::Wide>,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Real> Kernel for Forward<'_, T> {
    #[inline(always)]
    fn run(mut self) {
        self.normaliser.forward::<T, Identity>(self.x, self.y);
    }
}

struct Backward<'a, T: Real> {
    normaliser: Normaliser<T::Wide>,
    x: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<T: Real> Kernel for Backward<'_, T> {
    #[inline(always)]
    fn run(mut self) {
        self.normaliser.backward::<T, Identity>(self.x, self.dy, self.dx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};
    use half::bf16;

    /// Strong enough for the second term of the gradient to matter.
    const STRONG: Lrn = Lrn { size: 5, alpha: 0.3, beta: 0.75, k: 1.5 };

    fn noise(num: usize, stream: u64) -> Vec<f64> {
        let key = Key::new(stream, Purpose::Init);
        (0..num as u64).map(|i| key.normal(i)).collect()
    }

    fn window(
        lrn: &Lrn,
        i: usize,
        channels: usize,
        groups: usize,
    ) -> std::ops::RangeInclusive<usize> {
        let group = channels / groups;
        let (first, last) = (i / group * group, i / group * group + group - 1);
        i.saturating_sub(lrn.size / 2).max(first)..=(i + lrn.size / 2).min(last)
    }

    fn reference_forward(lrn: &Lrn, x: &[f64], channels: usize, groups: usize) -> Vec<f64> {
        let pixel = |x: &[f64]| -> Vec<f64> {
            let output = |i| {
                let sum: f64 = window(lrn, i, channels, groups).map(|j| x[j] * x[j]).sum();
                x[i] / (lrn.k + lrn.alpha * sum).powf(lrn.beta)
            };
            (0..channels).map(output).collect()
        };
        x.chunks(channels).flat_map(pixel).collect()
    }

    /// Central differences of the reference.
    fn reference_backward(
        lrn: &Lrn,
        x: &[f64],
        dy: &[f64],
        channels: usize,
        groups: usize,
    ) -> Vec<f64> {
        let step = 1e-5;
        let loss = |pixel: &[f64], dy: &[f64]| -> f64 {
            let y = reference_forward(lrn, pixel, channels, groups);
            y.iter().zip(dy).map(|(y, dy)| y * dy).sum()
        };
        let mut dx = Vec::new();
        for (pixel, dy) in x.chunks(channels).zip(dy.chunks(channels)) {
            for i in 0..channels {
                let shifted = |by: f64| {
                    let mut pixel = pixel.to_vec();
                    pixel[i] += by;
                    loss(&pixel, dy)
                };
                dx.push((shifted(step) - shifted(-step)) / (2.0 * step));
            }
        }
        dx
    }

    fn assert_close(actual: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(actual.len(), expected.len());
        for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
            assert!((a - e).abs() <= tolerance * (1.0 + e.abs()), "element {i}: {a} not {e}");
        }
    }

    fn forward<T: Real>(lrn: &Lrn, x: &[T], channels: usize, groups: usize) -> Vec<T> {
        let mut y = vec![T::ZERO; x.len()];
        lrn.forward(x, &mut y, channels, groups);
        y
    }

    fn backward<T: Real>(lrn: &Lrn, x: &[T], dy: &[T], channels: usize, groups: usize) -> Vec<T> {
        let mut dx = vec![T::ZERO; x.len()];
        lrn.backward(x, dy, &mut dx, channels, groups);
        dx
    }

    fn f32s(values: &[f64]) -> Vec<f32> {
        values.iter().map(|&v| v as f32).collect()
    }

    fn f64s<T: Real>(values: &[T]) -> Vec<f64>
    where
        T::Wide: Into<f64>,
    {
        values.iter().map(|v| v.widen().into()).collect()
    }

    /// (channels, groups), windows wider than a group among them.
    const SHAPES: [(usize, usize); 9] =
        [(1, 1), (3, 1), (5, 1), (7, 1), (48, 1), (96, 2), (40, 1), (12, 4), (66, 3)];

    fn variants() -> impl Iterator<Item = Lrn> {
        let sizes = [1, 3, 5, 9].into_iter().map(|size| Lrn { size, ..STRONG });
        sizes.chain([Lrn::PAPER, Lrn { beta: 0.6, ..STRONG }, Lrn { beta: 1.0, ..STRONG }])
    }

    #[test]
    fn forward_is_the_formula_of_the_paper_within_each_group() {
        for (lrn, (channels, groups)) in variants().flat_map(|l| SHAPES.map(|s| (l, s))) {
            let x = noise(3 * channels, 1);
            let expected = reference_forward(&lrn, &x, channels, groups);
            assert_close(&forward(&lrn, &x, channels, groups), &expected, 1e-14);
            assert_close(&f64s(&forward(&lrn, &f32s(&x), channels, groups)), &expected, 1e-6);
        }
    }

    #[test]
    fn backward_is_the_derivative_of_the_formula() {
        for (lrn, (channels, groups)) in variants().flat_map(|l| SHAPES.map(|s| (l, s))) {
            let (x, dy) = (noise(3 * channels, 1), noise(3 * channels, 2));
            let expected = reference_backward(&lrn, &x, &dy, channels, groups);
            let exact = backward(&lrn, &x, &dy, channels, groups);
            assert_close(&exact, &expected, 1e-8);
            let single = backward(&lrn, &f32s(&x), &f32s(&dy), channels, groups);
            assert_close(&f64s(&single), &exact, 2e-6);
        }
    }

    #[test]
    fn bf16_is_the_f32_result_rounded() {
        let (x, dy) = (f32s(&noise(96 * 9, 1)), f32s(&noise(96 * 9, 2)));
        let round = |v: &[f32]| -> Vec<bf16> { v.iter().map(|&v| bf16::from_f32(v)).collect() };
        let (x, dy) = (round(&x), round(&dy));
        let widened = |v: &[bf16]| -> Vec<f32> { v.iter().map(|v| v.to_f32()).collect() };
        let y = forward(&STRONG, &widened(&x), 96, 2);
        assert_eq!(forward(&STRONG, &x, 96, 2), round(&y));
        let dx = backward(&STRONG, &widened(&x), &widened(&dy), 96, 2);
        assert_eq!(backward(&STRONG, &x, &dy, 96, 2), round(&dx));
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let (x, dy) = (f32s(&noise(96 * 500, 1)), f32s(&noise(96 * 500, 2)));
        let with_threads = |num_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build();
            pool.expect("threads start")
                .install(|| (forward(&STRONG, &x, 96, 2), backward(&STRONG, &x, &dy, 96, 2)))
        };
        assert_eq!(with_threads(1), with_threads(3));
    }

    #[test]
    fn nan_reaches_its_window_and_infinity_silences_its_neighbours() {
        let mut x = vec![1.0f32; 48];
        x[20] = f32::NAN;
        x[40] = f32::INFINITY;
        let y = forward(&STRONG, &x, 48, 1);
        for (i, y) in y.iter().enumerate() {
            assert_eq!(y.is_nan(), i.abs_diff(20) <= 2 || i == 40, "channel {i}: {y}");
            assert_eq!(*y == 0.0, matches!(i.abs_diff(40), 1 | 2), "channel {i}: {y}");
        }
    }

    #[test]
    #[should_panic(expected = "do not divide into 2 groups")]
    fn channels_that_do_not_divide_into_the_groups_are_refused() {
        forward(&STRONG, &[0.0f32; 5], 5, 2);
    }
}
