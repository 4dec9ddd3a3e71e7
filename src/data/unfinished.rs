//! Images whose last pass is left to a device: their pixels as bytes, and what remains to be done.
//!
//! A quarter of the bytes of finished `f32` pixels travel to the device, and the loader's threads copy
//! instead of computing. The result is the same, bit for bit: see
//! [`Finish`](crate::kernels::finish::Finish). Nothing here knows who does it.

use rayon::prelude::*;

use super::DataError;
use super::cover::Window;
use super::finish::{Canvas, Finisher, Frame, ROWS_AHEAD};
use super::geometry::Geometry;
use super::memory::{Shape, zeros};
use super::normalisation::Normalisation;
use crate::kernels::stream::{self, Stream};

/// What is left to do to the `[n, crop, crop, 3]` bytes of a batch, as
/// [`Finish`](crate::kernels::finish::Finish) takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Unfinished {
    /// What pixels are multiplied by, red first.
    pub scale: [f32; 3],
    /// `[n]`: where each image lies in its bytes.
    pub windows: Vec<[i32; 5]>,
    /// `[n]`: what is added to each image's pixels, red first.
    pub offsets: Vec<[f32; 3]>,
}

impl Unfinished {
    /// Room for `num_images`.
    pub(super) fn new(normalisation: &Normalisation, num_images: usize) -> Result<Self, DataError> {
        Ok(Self {
            scale: normalisation.scale(),
            windows: zeros(num_images)?,
            offsets: zeros(num_images)?,
        })
    }

    /// Changes the number of images, within the memory already there.
    pub(super) fn resize(&mut self, num_images: usize) {
        self.windows.resize(num_images, [0; 5]);
        self.offsets.resize(num_images, [0.0; 3]);
    }

    /// Copies what is said of `len` images from `from` to `to`.
    pub(super) fn copy_within(&mut self, from: usize, to: usize, len: usize) {
        self.windows.copy_within(from..from + len, to);
        self.offsets.copy_within(from..from + len, to);
    }

    /// Where workers put images, whose bytes are `images`.
    pub(super) fn canvases<'a>(
        &'a mut self,
        images: &'a mut [u8],
        Shape { num_views, num_values }: Shape,
    ) -> impl IndexedParallelIterator<Item = Cuts<'a>> {
        let rest = self
            .windows
            .par_chunks_exact_mut(num_views)
            .zip(self.offsets.par_chunks_exact_mut(num_views));
        images
            .par_chunks_exact_mut(num_views * num_values)
            .zip(rest)
            .map(|(images, (windows, offsets))| Cuts { images, windows, offsets })
    }
}

/// One image, in all its views.
pub(super) struct Cuts<'a> {
    images: &'a mut [u8],
    windows: &'a mut [[i32; 5]],
    offsets: &'a mut [[f32; 3]],
}

impl Canvas for Cuts<'_> {
    /// Copies what the window shows of the frame to the top left corner of the view's bytes.
    fn draw(
        &mut self,
        view: usize,
        finisher: &mut Finisher,
        frame: Frame<'_>,
        geometry: &Geometry,
        window: Window,
    ) {
        let (row_len, num_values) = (geometry.crop as usize * 3, geometry.num_values());
        let out = &mut self.images[view * num_values..][..num_values];
        let (columns, rows) = geometry.shown(frame.width, frame.height, window);
        let num_bytes = columns.len() * 3;
        let stream = Stream::begin();
        for (row, y) in rows.clone().enumerate() {
            if let Some(ahead) = out.get((row + ROWS_AHEAD) * row_len..) {
                stream::prefetch(&ahead[..ahead.len().min(1)]);
            }
            let from = (y as usize * frame.width as usize + columns.start as usize) * 3;
            let pixels = &frame.pixels[from..from + num_bytes];
            stream.copy(pixels, &mut out[row * row_len..][..num_bytes]);
        }
        drop(stream);
        let before = |at: u32, shown: u32| at as i32 - geometry.pad as i32 - shown as i32;
        self.windows[view] = [
            before(window.left, columns.start),
            before(window.top, rows.start),
            columns.len() as i32,
            rows.len() as i32,
            i32::from(window.mirrored),
        ];
        self.offsets[view] = finisher.offset();
    }
}
