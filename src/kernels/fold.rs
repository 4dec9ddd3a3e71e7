//! Space to depth: each square of pixels becomes one pixel with all its values as channels.
//!
//! A strided convolution over few channels becomes one without a stride over many, with the same sums.
//! Filters are not known here.

use rayon::prelude::*;

use super::pool::Map;
use super::real::Real;

/// How images are folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fold {
    /// The side of a square, in pixels.
    pub stride: usize,
    /// Zeros above and left of the image, in pixels; beyond its other sides there are as many as it takes.
    pub padding: usize,
    /// Squares from top to bottom.
    pub rows: usize,
    /// Squares from left to right.
    pub columns: usize,
}

impl Fold {
    /// `out[n, y, x, (dy, dx, c)] = images[n, y * stride + dy - padding, x * stride + dx - padding, c]`,
    /// zero outside the image; `images` are of shape `map`, `out` of that of [`Fold::output`].
    ///
    /// # Panics
    /// If a length does not match its shape.
    pub fn run<T: Real>(&self, images: &[T], out: &mut [T], map: Map) {
        let output = self.check(map, images.len(), out.len());
        let line = self.stride * map.channels;
        let images = images.par_chunks(map.image().max(1));
        out.par_chunks_mut(output.image().max(1)).zip(images).for_each(|(out, image)| {
            for (at, out) in out.chunks_exact_mut(line).enumerate() {
                let (square, dy) = (at / self.stride, at % self.stride);
                let (row, column) = (square / self.columns, square % self.columns);
                let y = (row * self.stride + dy).checked_sub(self.padding);
                let y = y.filter(|&y| y < map.height);
                for (dx, out) in out.chunks_exact_mut(map.channels).enumerate() {
                    let x = (column * self.stride + dx).checked_sub(self.padding);
                    match (y, x.filter(|&x| x < map.width)) {
                        (Some(y), Some(x)) => {
                            let pixel = (y * map.width + x) * map.channels;
                            out.copy_from_slice(&image[pixel..][..map.channels]);
                        }
                        _ => out.fill(T::ZERO),
                    }
                }
            }
        });
    }

    /// The shape of the folded images.
    #[must_use]
    pub fn output(&self, map: Map) -> Map {
        let channels = self.stride * self.stride * map.channels;
        Map { num_images: map.num_images, height: self.rows, width: self.columns, channels }
    }

    /// Checks the lengths of input and output; the shape of the output.
    pub(super) fn check(&self, map: Map, num_inputs: usize, num_outputs: usize) -> Map {
        let output = self.output(map);
        assert_eq!(num_inputs, map.num_elements(), "fold: the images are of shape {map:?}");
        assert_eq!(num_outputs, output.num_elements(), "fold: the output is of shape {output:?}");
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_become_channels_and_what_is_beyond_the_image_is_zero() {
        // Rows 1 2 3, 4 5 6 and 7 8 9, with a zero above and left of them.
        let map = Map { num_images: 2, height: 3, width: 3, channels: 1 };
        let fold = Fold { stride: 2, padding: 1, rows: 2, columns: 3 };
        let images: Vec<f32> = (1..=9).chain(11..=19).map(|x| x as f32).collect();
        let mut out = vec![-1.0; 2 * 2 * 3 * 4];
        fold.run(&images, &mut out, map);
        #[rustfmt::skip]
        let expected = [
            0.0, 0.0, 0.0, 1.0,  0.0, 0.0, 2.0, 3.0,  0.0, 0.0, 0.0, 0.0,
            0.0, 4.0, 0.0, 7.0,  5.0, 6.0, 8.0, 9.0,  0.0, 0.0, 0.0, 0.0,
        ];
        assert_eq!(out[..24], expected);
        let second = expected.map(|x| if x == 0.0 { 0.0 } else { x + 10.0 });
        assert_eq!(out[24..], second);
    }

    #[test]
    fn pixels_stay_together() {
        let map = Map { num_images: 1, height: 2, width: 2, channels: 3 };
        let fold = Fold { stride: 2, padding: 0, rows: 1, columns: 1 };
        let images: Vec<f32> = (0..12).map(|x| x as f32).collect();
        let mut out = vec![-1.0; 12];
        fold.run(&images, &mut out, map);
        assert_eq!(out, images);
    }
}
