//! The last pass over pixels that a loader has left as bytes: reflection, padding, lighting, mean and
//! deviation, and the cast.
//!
//! The loader's own pass (`data/finish.rs`) gives the same bits. Where windows and colours come from
//! is not known here.

use rayon::prelude::*;

use super::real::{Real, Wide};

/// Images as bytes and what is to become of them.
#[derive(Clone, Copy, Debug)]
pub struct Finish<'a> {
    /// RGB8, `[n, crop, crop, 3]`; an image need not fill its share.
    pub pixels: &'a [u8],
    /// The side of the output, in pixels.
    pub crop: usize,
    /// `[n]`: left, top, width, height and 1 if mirrored. The image is the top left `width` x `height`
    /// of its bytes; the window's first pixel is its pixel (left, top), both negative in the padding.
    pub windows: &'a [[i32; 5]],
    /// `[n]`: (lighting - mean) / deviation, red first.
    pub offsets: &'a [[f32; 3]],
    /// 1 / deviation, red first.
    pub scale: [f32; 3],
}

impl Finish<'_> {
    /// `out[n, y, x, c] = pixel * scale_c + offset_nc`, `[n, crop, crop, 3]`; zero outside the image.
    ///
    /// # Panics
    /// If the lengths do not match, or a window's image is larger than its bytes.
    pub fn run<T: Real>(&self, out: &mut [T]) {
        let row_len = self.crop * 3;
        let num_images = self.windows.len();
        assert_eq!(self.pixels.len(), num_images * self.crop * row_len, "finish: the pixels");
        assert_eq!(self.offsets.len(), num_images, "finish: an offset for each image");
        assert_eq!(out.len(), self.pixels.len(), "finish: the output");
        if row_len == 0 {
            return;
        }
        let images = self.pixels.par_chunks_exact(self.crop * row_len);
        let rest = self.windows.par_iter().zip(self.offsets);
        let images = out.par_chunks_exact_mut(self.crop * row_len).zip(images).zip(rest);
        images.for_each(|((out, pixels), (window, offset))| {
            for (y, out) in out.chunks_exact_mut(row_len).enumerate() {
                self.row(y as i32, pixels, *window, offset, out);
            }
        });
    }

    /// Row `y` of one image.
    fn row<T: Real>(
        &self,
        y: i32,
        pixels: &[u8],
        [left, top, width, height, mirrored]: [i32; 5],
        offset: &[f32; 3],
        out: &mut [T],
    ) {
        let y = top + y;
        if !(0..height).contains(&y) {
            out.fill(T::ZERO);
            return;
        }
        let row = &pixels[y as usize * self.crop * 3..][..width as usize * 3];
        for (x, out) in out.chunks_exact_mut(3).enumerate() {
            let x = if mirrored == 0 { x } else { self.crop - 1 - x };
            let pixel =
                usize::try_from(left + x as i32).ok().and_then(|x| row.get(x * 3..x * 3 + 3));
            let value = |c: usize, pixel: &[u8]| f32::from(pixel[c]) * self.scale[c] + offset[c];
            for (c, out) in out.iter_mut().enumerate() {
                *out = pixel.map_or(T::ZERO, |pixel| {
                    T::narrow(T::Wide::from_f64(f64::from(value(c, pixel))))
                });
            }
        }
    }
}
