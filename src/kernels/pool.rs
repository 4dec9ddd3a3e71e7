//! Overlapping max pooling of channels-last maps (paper, section 3.4).
//!
//! Forward records which element of its window each output came from, in one byte; backward gathers
//! the gradient through these, so that every element of `dx` is written once, by one thread. The
//! module does not know what was computed before the pooling.

use super::real::{Real, Wide};
use super::simd::{self, Kernel};
use rayon::prelude::*;
use std::ops::Range;

/// The shape of a channels-last map: [num_images, height, width, channels].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Images.
    pub num_images: usize,
    /// Rows of an image.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Channels of a pixel.
    pub channels: usize,
}

impl Map {
    /// Elements of the whole map.
    #[must_use]
    pub const fn num_elements(self) -> usize {
        self.num_images * self.image()
    }

    /// Elements of an image.
    pub(super) const fn image(self) -> usize {
        self.height * self.row()
    }

    /// Elements of a row.
    pub(super) const fn row(self) -> usize {
        self.width * self.channels
    }
}

/// Max pooling with square windows, without padding; rows and columns that fill no window are left.
///
/// Of equal elements the first in row-major order counts as the maximum. A NaN exceeds everything,
/// the last of several counts, as in PyTorch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool {
    /// The side of a window, at most 16; 3 in the paper.
    pub window: usize,
    /// The distance between windows; 2 in the paper.
    pub stride: usize,
}

impl MaxPool {
    /// The shape of the output for an input of shape `map`.
    ///
    /// # Panics
    /// If the window is larger than the map or than 16, or it or the stride is zero.
    #[must_use]
    pub fn output(&self, map: Map) -> Map {
        let Self { window, stride } = *self;
        assert!((1..=16).contains(&window) && stride > 0, "max pool: window {window}/{stride}");
        assert!(
            map.height >= window && map.width >= window,
            "max pool: a map of {} x {} is smaller than the window of {window}",
            map.height,
            map.width
        );
        let along = |size| (size - window) / stride + 1;
        Map { height: along(map.height), width: along(map.width), ..map }
    }

    /// Pools `x` of shape `map` into `y` and the positions in the windows, `argmax`, both of shape
    /// [`MaxPool::output`].
    ///
    /// # Panics
    /// If a length does not match its shape, or as [`MaxPool::output`].
    pub fn forward<T: Real>(&self, x: &[T], y: &mut [T], argmax: &mut [u8], map: Map) {
        let output = self.check(map, x.len(), [y.len(), argmax.len()]);
        let images = x.par_chunks(map.image().max(1));
        let outputs = y.par_chunks_mut(output.image().max(1));
        let argmaxes = argmax.par_chunks_mut(output.image().max(1));
        let pixel = || vec![T::Wide::ZERO; map.channels];
        images.zip(outputs.zip(argmaxes)).for_each_init(pixel, |best, (x, (y, argmax))| {
            simd::run(Forward { pool: self, x, y, argmax, best, map, output });
        });
    }

    /// The gradient `dx` of the input, of shape `map`, from that of the output and the positions
    /// that forward wrote.
    ///
    /// # Panics
    /// As [`MaxPool::forward`].
    pub fn backward<T: Real>(&self, dy: &[T], argmax: &[u8], dx: &mut [T], map: Map) {
        let output = self.check(map, dx.len(), [dy.len(), argmax.len()]);
        let images = dx.par_chunks_mut(map.image().max(1));
        let gradients = dy.par_chunks(output.image().max(1));
        let argmaxes = argmax.par_chunks(output.image().max(1));
        let row = || vec![T::Wide::ZERO; map.row()];
        images.zip(gradients.zip(argmaxes)).for_each_init(row, |row, (dx, (dy, argmax))| {
            let pooled = Pooled { dy, argmax, shape: output };
            simd::run(Backward { pool: self, pooled, dx, row });
        });
    }

    /// Checks the lengths of an input and of two outputs; the shape of the output.
    pub(super) fn check(&self, map: Map, num_inputs: usize, num_outputs: [usize; 2]) -> Map {
        let output = self.output(map);
        assert_eq!(num_inputs, map.num_elements(), "max pool: the input is not of shape {map:?}");
        for num in num_outputs {
            assert_eq!(num, output.num_elements(), "max pool: the output is not of {output:?}");
        }
        output
    }

    /// Pools the rows of one row of windows, each of whole pixels of `channels`; `best` is scratch of
    /// one pixel.
    #[inline(always)]
    pub(super) fn pool_row<'a, T: Real>(
        &self,
        rows: impl Fn(usize) -> &'a [T],
        y: &mut [T],
        argmax: &mut [u8],
        best: &mut [T::Wide],
    ) {
        let channels = best.len();
        let outputs = y.chunks_exact_mut(channels).zip(argmax.chunks_exact_mut(channels));
        for (pixel, (y, argmax)) in outputs.enumerate() {
            let first = pixel * self.stride * channels;
            let window = |position: usize| {
                let column = position % self.window;
                &rows(position / self.window)[first + column * channels..][..channels]
            };
            argmax.fill(0);
            best.iter_mut().zip(window(0)).for_each(|(best, x)| *best = x.widen());
            for position in 1..self.window * self.window {
                take_larger(best, argmax, window(position), position as u8);
            }
            narrow_into(best, y);
        }
    }

    /// The windows along one side, of `num_windows`, that hold `position`.
    #[inline(always)]
    fn windows_over(&self, position: usize, num_windows: usize) -> Range<usize> {
        let end = (position / self.stride + 1).min(num_windows);
        let first = (position + self.stride).saturating_sub(self.window) / self.stride;
        first.min(end)..end
    }

    /// The gradient of row `y` of one image of the input, in the wide type.
    #[inline(always)]
    pub(super) fn gradient_row<T: Real>(
        &self,
        pooled: &Pooled<'_, T>,
        y: usize,
        dx: &mut [T::Wide],
    ) {
        dx.fill(T::Wide::ZERO);
        let Map { channels, height, .. } = pooled.shape;
        let row = pooled.shape.row();
        for window_row in self.windows_over(y, height) {
            let first_position = (y - window_row * self.stride) * self.window;
            let dy = pooled.dy[window_row * row..][..row].chunks_exact(channels);
            let argmax = pooled.argmax[window_row * row..][..row].chunks_exact(channels);
            for (window, (dy, argmax)) in dy.zip(argmax).enumerate() {
                for column in 0..self.window {
                    let position = (first_position + column) as u8;
                    let dx = &mut dx[(window * self.stride + column) * channels..][..channels];
                    add_where(dx, dy, argmax, position);
                }
            }
        }
    }
}

// The loops over channels are functions of their own, and long: the compiler unrolls short ones and
// then fails to find their vector form where types of three widths meet.

/// Replaces `best` by `x`, and the position of the best by `position`, where `x` is larger or no number.
#[inline(always)]
fn take_larger<T: Real>(best: &mut [T::Wide], argmax: &mut [u8], x: &[T], position: u8) {
    for ((best, argmax), x) in best.iter_mut().zip(argmax).zip(x) {
        let x = x.widen();
        let better = x > *best || x.is_nan();
        *best = if better { x } else { *best };
        *argmax = if better { position } else { *argmax };
    }
}

/// Adds the gradients of the outputs that came from `position`.
#[inline(always)]
fn add_where<T: Real>(dx: &mut [T::Wide], dy: &[T], argmax: &[u8], position: u8) {
    for ((dx, dy), argmax) in dx.iter_mut().zip(dy).zip(argmax) {
        *dx = *dx + if *argmax == position { dy.widen() } else { T::Wide::ZERO };
    }
}

/// Writes wide values in the element type.
#[inline(always)]
pub(super) fn narrow_into<T: Real>(wide: &[T::Wide], to: &mut [T]) {
    to.iter_mut().zip(wide).for_each(|(to, wide)| *to = T::narrow(*wide));
}

/// The gradient of one image's outputs and where they came from.
pub(super) struct Pooled<'a, T> {
    pub(super) dy: &'a [T],
    pub(super) argmax: &'a [u8],
    pub(super) shape: Map,
}

struct Forward<'a, T: Real> {
    pool: &'a MaxPool,
    x: &'a [T],
    y: &'a mut [T],
    argmax: &'a mut [u8],
    best: &'a mut [T::Wide],
    map: Map,
    output: Map,
}

impl<T: Real> Kernel for Forward<'_, T> {
    #[inline(always)]
    fn run(self) {
        let (row, output_row) = (self.map.row(), self.output.row());
        let outputs =
            self.y.chunks_exact_mut(output_row).zip(self.argmax.chunks_exact_mut(output_row));
        for (index, (y, argmax)) in outputs.enumerate() {
            let x = &self.x[index * self.pool.stride * row..];
            self.pool.pool_row(|in_window| &x[in_window * row..][..row], y, argmax, self.best);
        }
    }
}

struct Backward<'a, T: Real> {
    pool: &'a MaxPool,
    pooled: Pooled<'a, T>,
    dx: &'a mut [T],
    row: &'a mut [T::Wide],
}

impl<T: Real> Kernel for Backward<'_, T> {
    #[inline(always)]
    fn run(self) {
        for (y, dx) in self.dx.chunks_exact_mut(self.row.len()).enumerate() {
            self.pool.gradient_row(&self.pooled, y, self.row);
            narrow_into(self.row, dx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};
    use half::bf16;

    const PAPER: MaxPool = MaxPool { window: 3, stride: 2 };

    /// Small integers, so that ties are common.
    fn tied<T: Real<Wide = f32>>(num: usize, stream: u64) -> Vec<T> {
        let key = Key::new(stream, Purpose::Init);
        (0..num as u64).map(|i| T::narrow(key.below(i, 7) as f32 - 3.0)).collect()
    }

    fn forward<T: Real>(pool: MaxPool, x: &[T], map: Map) -> (Vec<T>, Vec<u8>) {
        let num = pool.output(map).num_elements();
        let (mut y, mut argmax) = (vec![T::ZERO; num], vec![255; num]);
        pool.forward(x, &mut y, &mut argmax, map);
        (y, argmax)
    }

    /// For each output its position in the window and the index of the input it came from.
    fn reference(pool: MaxPool, x: &[f32], map: Map) -> Vec<(u8, usize)> {
        let output = pool.output(map);
        let window_of = |index: usize| {
            let (pixel, channel) = (index / map.channels, index % map.channels);
            let (line, column) = (pixel / output.width, pixel % output.width);
            let (image, row) = (line / output.height, line % output.height);
            let element = move |p: usize| {
                let y = row * pool.stride + p / pool.window;
                let x = column * pool.stride + p % pool.window;
                ((image * map.height + y) * map.width + x) * map.channels + channel
            };
            (0..pool.window * pool.window).map(move |p| (p as u8, element(p)))
        };
        let first_maximum = |index| {
            window_of(index).reduce(|a, b| if x[b.1] > x[a.1] { b } else { a }).expect("a window")
        };
        (0..output.num_elements()).map(first_maximum).collect()
    }

    fn cases() -> impl Iterator<Item = (MaxPool, Map)> {
        let pools = [PAPER, MaxPool { window: 2, stride: 2 }, MaxPool { window: 3, stride: 1 }]
            .into_iter()
            .chain([MaxPool { window: 2, stride: 3 }, MaxPool { window: 5, stride: 2 }]);
        let maps = [(1, 7, 9, 1), (2, 8, 6, 5), (3, 5, 5, 48), (1, 13, 13, 35)];
        pools.flat_map(move |pool| {
            maps.map(|(num_images, height, width, channels)| {
                (pool, Map { num_images, height, width, channels })
            })
        })
    }

    #[test]
    fn forward_takes_the_first_maximum_of_each_window() {
        for (pool, map) in cases() {
            let x: Vec<f32> = tied(map.num_elements(), 1);
            let (y, argmax) = forward(pool, &x, map);
            for (i, (position, source)) in reference(pool, &x, map).into_iter().enumerate() {
                assert_eq!((y[i], argmax[i]), (x[source], position), "{pool:?} {map:?} {i}");
            }
            let narrow: Vec<bf16> = tied(map.num_elements(), 1);
            assert_eq!(forward(pool, &narrow, map).1, argmax);
        }
    }

    #[test]
    fn backward_sends_each_gradient_to_the_maximum_it_came_from() {
        for (pool, map) in cases() {
            let x: Vec<f32> = tied(map.num_elements(), 1);
            let (y, argmax) = forward(pool, &x, map);
            let dy: Vec<f32> = tied(y.len(), 2);
            let (mut dx, mut expected) = (vec![f32::NAN; x.len()], vec![0.0; x.len()]);
            pool.backward(&dy, &argmax, &mut dx, map);
            let sources = reference(pool, &x, map).into_iter().map(|(_, source)| source);
            sources.zip(&dy).for_each(|(source, dy)| expected[source] += dy);
            assert_eq!(dx, expected, "{pool:?} {map:?}");
        }
    }

    #[test]
    fn nan_exceeds_everything_and_minus_infinity_nothing() {
        let map = Map { num_images: 1, height: 3, width: 3, channels: 16 };
        let mut x = vec![f32::NEG_INFINITY; map.num_elements()];
        x[4 * 16 + 3] = f32::NAN;
        x[6 * 16 + 3] = f32::INFINITY;
        let (y, argmax) = forward(PAPER, &x, map);
        for channel in 0..16 {
            assert_eq!(y[channel].is_nan(), channel == 3);
            assert_eq!(argmax[channel], if channel == 3 { 4 } else { 0 });
        }
    }

    #[test]
    #[should_panic(expected = "smaller than the window")]
    fn a_map_smaller_than_the_window_is_refused() {
        let _ = PAPER.output(Map { num_images: 1, height: 2, width: 9, channels: 1 });
    }
}
