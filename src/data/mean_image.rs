//! The mean of a training split's frames, pixel by pixel, as §2 of the paper subtracts it.
//!
//! It lies over a frame, so a window of the frame has the same window of the mean image, and a
//! reflected one its reflection. How the mean came about is not known here.

/// A mean image of grey levels.
#[derive(Clone, Debug, PartialEq)]
pub struct MeanImage {
    width: u32,
    height: u32,
    /// `[height, width, 3]`
    values: Vec<f32>,
    /// The same reflected left to right, so that a row of a reflected window is read forwards.
    mirrored: Vec<f32>,
}

impl MeanImage {
    /// The mean image with these values, `[height, width, 3]`.
    ///
    /// # Panics
    /// If the values are not as many as that.
    #[must_use]
    pub fn new(width: u32, height: u32, values: Vec<f32>) -> Self {
        let row_len = width as usize * 3;
        assert_eq!(values.len(), row_len * height as usize, "a mean image is whole");
        let mut mirrored = Vec::with_capacity(values.len());
        for row in values.chunks_exact(row_len.max(1)) {
            mirrored.extend(row.as_chunks::<3>().0.iter().rev().flatten());
        }
        Self { width, height, values, mirrored }
    }

    /// Columns.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// `[height, width, 3]`, red first.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// `num` pixels of row `y` from column `x` on; in reverse order if they are mirrored.
    pub(super) fn row(&self, y: usize, x: usize, num: usize, mirrored: bool) -> &[f32] {
        let width = self.width as usize;
        let (values, x) = match mirrored {
            false => (&self.values, x),
            true => (&self.mirrored, width - x - num),
        };
        &values[(y * width + x) * 3..][..num * 3]
    }
}
