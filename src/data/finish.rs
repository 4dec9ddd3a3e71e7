//! The last pass over pixels: window, reflection, lighting, mean and deviation, to `f32`.
//!
//! One read of the bytes and one write of the floats. Per-channel factors are laid out as long as a
//! row, so the inner loop is one multiply-add per value without a branch and the compiler
//! vectorises it. It does not know where windows or shifts come from.

use super::augment::Window;
use super::error::DataError;

/// Mean and deviation per channel (red, green, blue), in grey levels (0 to 255).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    /// Subtracted from every pixel.
    pub mean: [f32; 3],
    /// Divides what remains; 1 as in the paper, which only subtracts the mean.
    pub std: [f32; 3],
}

impl Normalisation {
    /// Whether every number is finite and every deviation positive.
    ///
    /// # Errors
    /// [`DataError::Geometry`] with the numbers.
    pub fn check(&self) -> Result<(), DataError> {
        let ok = self.mean.iter().all(|mean| mean.is_finite())
            && self.std.iter().all(|std| std.is_finite() && *std > 0.0);
        if ok {
            return Ok(());
        }
        let Self { mean, std } = self;
        let reason = format!("mean {mean:?} must be finite and std {std:?} finite and positive");
        Err(DataError::Geometry { reason })
    }
}

/// A picture windows are cut from: RGB8, `[height, width, 3]`.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) pixels: &'a [u8],
}

/// Scratch rows of the pass, each `crop * 3` long.
#[derive(Debug, Default)]
pub(super) struct Finisher {
    scale: Vec<f32>,
    offset: Vec<f32>,
    mirrored: Vec<u8>,
}

impl Finisher {
    /// Sets `out[y, x, c] = (pixel + shift_c - mean_c) / std_c` for the coming images of side
    /// `crop`.
    pub(super) fn set(&mut self, crop: u32, normalisation: &Normalisation, shift: [f32; 3]) {
        let len = crop as usize * 3;
        let Normalisation { mean, std } = normalisation;
        let scale = std.map(|std| 1.0 / std);
        let offset = [0, 1, 2].map(|c| (shift[c] - mean[c]) * scale[c]);
        self.mirrored.resize(len, 0);
        for (row, values) in [(&mut self.scale, scale), (&mut self.offset, offset)] {
            row.resize(len, 0.0);
            row.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&values));
        }
    }

    /// Writes one window of `frame`, padded by `pad` zeros, to `out`: `[crop, crop, 3]`.
    pub(super) fn window(&mut self, frame: Frame<'_>, pad: u32, window: Window, out: &mut [f32]) {
        let row_len = self.scale.len();
        let crop = row_len / 3;
        let (pad, width, height) = (pad as usize, frame.width as usize, frame.height as usize);
        let (left, top) = (window.left as usize, window.top as usize);
        // The columns of the output, before reflection, that lie inside the frame.
        let start = pad.saturating_sub(left).min(crop);
        let end = (pad + width).saturating_sub(left).clamp(start, crop);
        for (y, out_row) in out.chunks_exact_mut(row_len).enumerate() {
            let y = top + y;
            if !(pad..pad + height).contains(&y) || start == end {
                out_row.fill(0.0);
                continue;
            }
            let from = ((y - pad) * width + left + start - pad) * 3;
            let pixels = &frame.pixels[from..][..(end - start) * 3];
            let (start, end) =
                if window.mirrored { (crop - end, crop - start) } else { (start, end) };
            out_row[..start * 3].fill(0.0);
            out_row[end * 3..].fill(0.0);
            self.row(pixels, window.mirrored, &mut out_row[start * 3..end * 3]);
        }
    }

    /// Converts one row of pixels that lies wholly inside the frame.
    fn row<'a>(&'a mut self, mut pixels: &'a [u8], mirrored: bool, out: &mut [f32]) {
        if mirrored {
            let reversed = &mut self.mirrored[..pixels.len()];
            for (to, from) in reversed.chunks_exact_mut(3).zip(pixels.chunks_exact(3).rev()) {
                to.copy_from_slice(from);
            }
            pixels = reversed;
        }
        let factors = self.scale.iter().zip(&self.offset);
        for ((out, &pixel), (scale, offset)) in out.iter_mut().zip(pixels).zip(factors) {
            *out = f32::from(pixel) * scale + offset;
        }
    }
}
