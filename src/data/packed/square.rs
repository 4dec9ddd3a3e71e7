//! One image after another as the loader would show all of it: scaled, cut square, neither varied
//! nor normalised.
//!
//! The loader's own [`Worker`] does it, so packed pixels are those that training on the source would
//! have seen.

use super::super::cover::Needed;
use super::super::geometry::Geometry;
use super::super::source::Source;
use super::super::worker::Worker;

/// Makes square images in memory that is kept between them.
#[derive(Default)]
pub struct Squarer {
    worker: Worker,
}

impl Squarer {
    /// Draws image `index` of `source` to `out`, `[size, size, 3]`.
    ///
    /// # Errors
    /// Why the image cannot be read, without its name.
    ///
    /// # Panics
    /// If `out` has another size.
    pub fn draw(
        &mut self,
        source: &dyn Source,
        index: usize,
        size: u32,
        out: &mut [u8],
    ) -> Result<(), String> {
        let geometry = Geometry { resize: size, pad: 0, crop: size };
        assert_eq!(out.len(), geometry.num_values(), "room for one square");
        let drawing = |width, height| geometry.drawing(width, height, |_| Needed::Frame);
        let loaded = self.worker.load(source, index, drawing)?;
        out.copy_from_slice(self.worker.frame(loaded).pixels);
        Ok(())
    }

    /// The file that the image last drawn was decoded from, if its pixels are drawn as they are.
    #[must_use]
    pub fn unscaled_file(&self) -> Option<&[u8]> {
        self.worker.unscaled_file()
    }
}
