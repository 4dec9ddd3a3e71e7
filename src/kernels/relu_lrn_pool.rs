//! ReLU, local response normalisation and max pooling as one pass over a convolution's output.
//!
//! A ring of normalised rows, as many as a window is high, is all that lies between the input and
//! the pooled output (without normalisation, nothing); backward recomputes activations and denominators
//! from the input. Results are bit for bit those of the three kernels one after another: normalised values
//! and the gradients between the kernels are rounded to the element type here too, before they are compared
//! or used.

use super::lrn::Lrn;
use super::normaliser::{Activation, Normaliser, Relu};
use super::pool::{Map, MaxPool, Pooled, narrow_into};
use super::real::Real;
use super::simd::{self, Kernel};
use rayon::prelude::*;

/// What follows a convolution: ReLU, then normalisation unless there is none, then pooling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReluLrnPool {
    /// The normalisation; the paper has none after its fifth convolution.
    pub lrn: Option<Lrn>,
    /// The number of equal groups of channels that are normalised apart.
    pub groups: usize,
    /// The pooling.
    pub pool: MaxPool,
}

impl ReluLrnPool {
    /// From the convolution's output `a` of shape `map` to the pooled `y` and the positions in the
    /// windows, `argmax`, both of the shape that [`MaxPool::output`] says.
    ///
    /// # Panics
    /// If a length does not match its shape, the groups do not divide the channels, or the
    /// normalisation's window has no middle.
    pub fn forward<T: Real>(&self, a: &[T], y: &mut [T], argmax: &mut [u8], map: Map) {
        let output = self.check(map, a.len(), [y.len(), argmax.len()]);
        let scratch = || Scratch::new(self, map, self.pool.window, map.channels);
        let images = a.par_chunks(map.image().max(1));
        let outputs = y.par_chunks_mut(output.image().max(1));
        let argmaxes = argmax.par_chunks_mut(output.image().max(1));
        images.zip(outputs.zip(argmaxes)).for_each_init(scratch, |scratch, (a, (y, argmax))| {
            simd::run(Forward { pool: self.pool, scratch, a, y, argmax, map, output });
        });
    }

    /// The gradient `da` of the convolution's output, from that output `a`, the gradient `dy` of the
    /// pooled output and the positions that forward wrote.
    ///
    /// # Panics
    /// As [`ReluLrnPool::forward`].
    pub fn backward<T: Real>(&self, a: &[T], dy: &[T], argmax: &[u8], da: &mut [T], map: Map) {
        let output = self.check(map, a.len(), [dy.len(), argmax.len()]);
        assert_eq!(a.len(), da.len(), "relu, lrn, pool: the gradient is not of shape {map:?}");
        let scratch = || Scratch::new(self, map, 1, map.row());
        let images = a.par_chunks(map.image().max(1)).zip(da.par_chunks_mut(map.image().max(1)));
        let gradients = dy.par_chunks(output.image().max(1));
        let argmaxes = argmax.par_chunks(output.image().max(1));
        images.zip(gradients.zip(argmaxes)).for_each_init(
            scratch,
            |scratch, ((a, da), (dy, argmax))| {
                let pooled = Pooled { dy, argmax, shape: output };
                simd::run(Backward { pool: self.pool, scratch, a, da, pooled, map });
            },
        );
    }

    /// Checks the lengths of an input and of two outputs; the shape of the output.
    pub(super) fn check(&self, map: Map, num_inputs: usize, num_outputs: [usize; 2]) -> Map {
        assert!(
            self.groups > 0 && map.channels.is_multiple_of(self.groups),
            "relu, lrn, pool: {} channels do not divide into {} groups",
            map.channels,
            self.groups
        );
        if let Some(lrn) = &self.lrn {
            lrn.check_size();
        }
        self.pool.check(map, num_inputs, num_outputs)
    }
}

/// A thread's buffers: rows of the map, and those of the normalisation.
struct Scratch<T: Real> {
    normaliser: Option<Normaliser<T::Wide>>,
    rows: Vec<T>,
    /// A pixel of maxima, or a row of gradients.
    wide: Vec<T::Wide>,
}

impl<T: Real> Scratch<T> {
    fn new(kernel: &ReluLrnPool, map: Map, num_rows: usize, num_wide: usize) -> Self {
        let group_channels = map.channels / kernel.groups;
        let normaliser = kernel.lrn.map(|lrn| Normaliser::new(&lrn, group_channels));
        Self {
            normaliser,
            rows: vec![T::ZERO; num_rows * map.row()],
            wide: vec![T::Wide::ZERO; num_wide],
        }
    }
}

struct Forward<'a, T: Real> {
    pool: MaxPool,
    scratch: &'a mut Scratch<T>,
    a: &'a [T],
    y: &'a mut [T],
    argmax: &'a mut [u8],
    map: Map,
    output: Map,
}

impl<T: Real> Kernel for Forward<'_, T> {
    #[inline(always)]
    fn run(self) {
        let MaxPool { window, stride } = self.pool;
        let (row, output_row) = (self.map.row(), self.output.row());
        let Scratch { normaliser, rows, wide } = self.scratch;
        let outputs =
            self.y.chunks_exact_mut(output_row).zip(self.argmax.chunks_exact_mut(output_row));
        let mut num_ready = 0;
        for (index, (y, argmax)) in outputs.enumerate() {
            let first = index * stride;
            let Some(normaliser) = normaliser else {
                // The largest activation is the activation of the largest.
                let a = &self.a[first * row..];
                self.pool.pool_row(|in_window| &a[in_window * row..][..row], y, argmax, wide);
                rectify(y);
                continue;
            };
            for ready in num_ready.max(first)..first + window {
                let a = &self.a[ready * row..][..row];
                normaliser.forward::<T, Relu>(a, &mut rows[ready % window * row..][..row]);
            }
            num_ready = first + window;
            let rows = |in_window| &rows[(first + in_window) % window * row..][..row];
            self.pool.pool_row(rows, y, argmax, wide);
        }
    }
}

struct Backward<'a, T: Real> {
    pool: MaxPool,
    scratch: &'a mut Scratch<T>,
    a: &'a [T],
    da: &'a mut [T],
    pooled: Pooled<'a, T>,
    map: Map,
}

impl<T: Real> Kernel for Backward<'_, T> {
    #[inline(always)]
    fn run(self) {
        let row = self.map.row();
        let Scratch { normaliser, rows: gradient, wide } = self.scratch;
        let rows = self.a.chunks_exact(row).zip(self.da.chunks_exact_mut(row));
        for (y, (a, da)) in rows.enumerate() {
            self.pool.gradient_row(&self.pooled, y, wide);
            narrow_into(wide, gradient);
            match normaliser {
                Some(normaliser) => normaliser.backward::<T, Relu>(a, gradient, da),
                None => unrectify(a, gradient, da),
            }
        }
    }
}

#[inline(always)]
fn rectify<T: Real>(x: &mut [T]) {
    x.iter_mut().for_each(|x| *x = T::narrow(Relu::of(x.widen())));
}

#[inline(always)]
fn unrectify<T: Real>(a: &[T], gradient: &[T], da: &mut [T]) {
    for ((da, a), gradient) in da.iter_mut().zip(a).zip(gradient) {
        *da = T::narrow(Relu::gradient(Relu::of(a.widen()), gradient.widen()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};
    use half::bf16;
    use std::fmt::Debug;

    const STRONG: Lrn = Lrn { size: 5, alpha: 0.3, beta: 0.75, k: 1.5 };
    const POOL: MaxPool = MaxPool { window: 3, stride: 2 };
    const GROUPED: ReluLrnPool = ReluLrnPool { lrn: Some(STRONG), groups: 2, pool: POOL };

    /// Multiples of a quarter, so that ties and zeros occur.
    fn noise<T: Real<Wide = f32>>(num: usize, stream: u64) -> Vec<T> {
        let key = Key::new(stream, Purpose::Init);
        (0..num as u64).map(|i| T::narrow((key.normal(i) * 4.0).round() as f32 / 4.0)).collect()
    }

    /// Pooled output and gradient of the input. Positions may differ where no activation is positive.
    type Results<T> = (Vec<T>, Vec<T>);

    fn fused<T: Real>(kernel: ReluLrnPool, a: &[T], dy: &[T], map: Map) -> Results<T> {
        let (mut y, mut argmax) = (vec![T::ZERO; dy.len()], vec![255; dy.len()]);
        let mut da = vec![T::ZERO; a.len()];
        kernel.forward(a, &mut y, &mut argmax, map);
        kernel.backward(a, dy, &argmax, &mut da, map);
        (y, da)
    }

    fn chained<T: Real>(kernel: ReluLrnPool, a: &[T], dy: &[T], map: Map) -> Results<T> {
        let zeros = || vec![T::ZERO; a.len()];
        let (mut relu, mut normalised) = (a.to_vec(), zeros());
        rectify(&mut relu);
        let (mut y, mut argmax) = (vec![T::ZERO; dy.len()], vec![255; dy.len()]);
        let (mut dnormalised, mut drelu, mut da) = (zeros(), zeros(), zeros());
        match kernel.lrn {
            Some(lrn) => lrn.forward(&relu, &mut normalised, map.channels, kernel.groups),
            None => normalised.copy_from_slice(&relu),
        }
        kernel.pool.forward(&normalised, &mut y, &mut argmax, map);
        kernel.pool.backward(dy, &argmax, &mut dnormalised, map);
        match kernel.lrn {
            Some(lrn) => {
                lrn.backward(&relu, &dnormalised, &mut drelu, map.channels, kernel.groups);
            }
            None => drelu.copy_from_slice(&dnormalised),
        }
        unrectify(a, &drelu, &mut da);
        (y, da)
    }

    fn assert_fused_is_chained<T: Real<Wide = f32> + Debug + PartialEq>() {
        let maps = [(2, 9, 7, 6), (1, 8, 8, 96), (3, 5, 6, 34)];
        let pools = [POOL, MaxPool { window: 2, stride: 3 }, MaxPool { window: 3, stride: 1 }];
        for ((num_images, height, width, channels), pool) in
            maps.into_iter().flat_map(|map| pools.map(|pool| (map, pool)))
        {
            let map = Map { num_images, height, width, channels };
            let a = noise::<T>(map.num_elements(), 1);
            let dy = noise::<T>(pool.output(map).num_elements(), 2);
            for lrn in [None, Some(STRONG), Some(Lrn { beta: 0.5, size: 3, ..STRONG })] {
                let kernel = ReluLrnPool { lrn, groups: 2, pool };
                assert_eq!(fused(kernel, &a, &dy, map), chained(kernel, &a, &dy, map), "{map:?}");
            }
        }
    }

    #[test]
    fn fused_is_the_three_kernels_bit_for_bit() {
        assert_fused_is_chained::<f32>();
        assert_fused_is_chained::<bf16>();
    }

    #[test]
    fn backward_is_the_derivative_of_forward() {
        let map = Map { num_images: 1, height: 5, width: 5, channels: 6 };
        let key = Key::new(1, Purpose::Init);
        let a: Vec<f64> = (0..map.num_elements() as u64).map(|i| key.normal(i)).collect();
        let dy: Vec<f64> = (0..24).map(|i| key.normal(1000 + i)).collect();
        let loss = |a: &[f64]| -> f64 {
            let (y, _) = fused(GROUPED, a, &dy, map);
            y.iter().zip(&dy).map(|(y, dy)| y * dy).sum()
        };
        let (_, da) = fused(GROUPED, &a, &dy, map);
        for i in 0..a.len() {
            let shifted = |by: f64| {
                let mut a = a.clone();
                a[i] += by;
                loss(&a)
            };
            let expected = (shifted(1e-6) - shifted(-1e-6)) / 2e-6;
            assert!((da[i] - expected).abs() < 1e-7, "element {i}: {} not {expected}", da[i]);
        }
        assert!(da.iter().any(|da| da.abs() > 0.1));
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let map = Map { num_images: 7, height: 9, width: 9, channels: 48 };
        let a = noise::<f32>(map.num_elements(), 1);
        let dy = noise::<f32>(POOL.output(map).num_elements(), 2);
        let with_threads = |num_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build();
            pool.expect("threads start").install(|| fused(GROUPED, &a, &dy, map))
        };
        assert_eq!(with_threads(1), with_threads(3));
    }

    #[test]
    fn a_nan_reaches_the_output_and_stays_in_its_group() {
        let map = Map { num_images: 2, height: 3, width: 3, channels: 12 };
        let mut a = vec![1.0f32; map.num_elements()];
        a[5] = f32::NAN;
        let (y, da) = fused(GROUPED, &a, &[1.0; 24], map);
        for (index, y) in y.iter().enumerate() {
            assert_eq!(y.is_nan(), (3..6).contains(&index), "element {index}");
        }
        assert!(da[6..12].iter().chain(&da[12 * 9..]).all(|da| da.is_finite()));
    }
}
