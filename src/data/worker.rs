//! One worker's path from a source's bytes to a frame, in memory that is kept between images.
//!
//! A worker handles one image at a time. It does not choose images and does not judge bad ones.

use fast_image_resize::images::{Image as ResizeTarget, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::augment::{Geometry, Window};
use super::decode::{DecodeError, Decoder, Image};
use super::finish::{Finisher, Frame, Normalisation};
use super::source::{Content, Source};

/// The scratch memory of one thread.
#[derive(Default)]
pub(super) struct Worker {
    bytes: Vec<u8>,
    decoder: Decoder,
    image: Image,
    resizer: Resizer,
    square: Vec<u8>,
    finisher: Finisher,
}

impl Worker {
    /// Reads and decodes image `index`; the error is the reason, without the image's name.
    pub(super) fn load(&mut self, source: &dyn Source, index: usize) -> Result<(), String> {
        let content =
            source.read(index, &mut self.bytes).map_err(|error| format!("cannot read: {error}"))?;
        let decoded = match content {
            Content::Encoded => self.decoder.decode(&self.bytes, &mut self.image),
            Content::Rgb { width, height } => {
                self.image.reset(width, height).map(|to| to.copy_from_slice(&self.bytes))
            }
        };
        decoded.map_err(|error| error.to_string())
    }

    /// Decodes an image that is already in memory.
    pub(super) fn decode(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        self.decoder.decode(bytes, &mut self.image)
    }

    /// Writes windows of the loaded image to `out`, one after another, each `[crop, crop, 3]`.
    ///
    /// `windows` is told how far a window can move in the frame and yields as many windows as `out`
    /// has room for.
    pub(super) fn finish<W: IntoIterator<Item = Window>>(
        &mut self,
        geometry: &Geometry,
        normalisation: &Normalisation,
        shift: [f32; 3],
        windows: impl FnOnce((u32, u32)) -> W,
        out: &mut [f32],
    ) {
        self.finisher.set(geometry.crop, normalisation, shift);
        let frame = frame(&self.image, geometry, &mut self.resizer, &mut self.square);
        let windows = windows(geometry.slack(frame.width, frame.height));
        for (window, out) in windows.into_iter().zip(out.chunks_exact_mut(geometry.num_floats())) {
            self.finisher.window(frame, geometry.pad, window, out);
        }
    }
}

/// The frame of an image: itself where no resizing is due, else its central square resized.
fn frame<'a>(
    image: &'a Image,
    geometry: &Geometry,
    resizer: &mut Resizer,
    square: &'a mut Vec<u8>,
) -> Frame<'a> {
    let (width, height) = (image.width(), image.height());
    let side = match geometry.resize {
        0 if width.min(height) + 2 * geometry.pad >= geometry.crop => None,
        0 => Some(geometry.crop),
        resize => Some(resize),
    };
    let side = match side {
        Some(side) if (width, height) != (side, side) => side,
        _ => return Frame { width, height, pixels: image.pixels() },
    };
    square.resize(side as usize * side as usize * 3, 0);
    let from = ImageRef::new(width, height, image.pixels(), PixelType::U8x3)
        .expect("an image has width * height * 3 bytes");
    let mut to = ResizeTarget::from_slice_u8(side, side, square, PixelType::U8x3)
        .expect("the square has side * side * 3 bytes");
    let short = width.min(height);
    // Whole offsets keep a square that needs no scaling an exact copy.
    let (left, top) = ((width - short) / 2, (height - short) / 2);
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .crop(left.into(), top.into(), short.into(), short.into());
    resizer.resize(&from, &mut to, &options).expect("the central square lies inside the image");
    Frame { width: side, height: side, pixels: square }
}
