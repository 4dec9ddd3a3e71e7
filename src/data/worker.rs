//! One worker's path from a source's bytes to a frame, in memory that is kept between images.
//!
//! A worker handles one image at a time. It does not choose images and does not judge bad ones.

use std::time::Instant;

use fast_image_resize::images::{CroppedImage, Image as ResizeTarget, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::cover::{Axis, Cover, Drawing, Window};
use super::decode::{DecodeError, Decoder, Image, check_size};
use super::error::DataError;
use super::finish::{Canvas, Finisher, Frame};
use super::geometry::Geometry;
use super::jpeg::{Lines, RegionDecoder, Unsupported};
use super::normalisation::Normalisation;
use super::resample::{Resample, Target};
use super::source::{Content, Source};
use super::stages::Stages;
use super::unscaled::{self, Unscaled};

/// Where the frame of an image lies.
#[derive(Clone, Copy)]
pub(super) enum Loaded<'s> {
    /// In the worker, until it loads another.
    Worker,
    /// Where the source has it.
    Source(Frame<'s>),
}

/// The scratch memory of one thread.
#[derive(Default)]
pub(super) struct Worker {
    bytes: Vec<u8>,
    /// What the source put there last.
    content: Option<Content>,
    decoder: Decoder,
    image: Image,
    resizer: Resizer,
    region: Region,
    /// The frame, where it is not the image itself.
    square: Vec<u8>,
    /// The side of `square`; `None` while `image` is the frame.
    side: Option<u32>,
    /// Whether the frame is not the image as it is stored.
    is_resized: bool,
    finisher: Finisher,
    stages: Stages,
}

/// The decoder of regions, and what is drawn from them.
#[derive(Default)]
struct Region {
    jpeg: RegionDecoder,
    resample: Resample,
    unscaled: unscaled::Scratch,
}

impl Worker {
    /// Makes the frame of image `index`; the error is the reason, without the image's name.
    ///
    /// `drawing` is told the image's width and height; `None` takes the image as it is.
    pub(super) fn load<'s>(
        &mut self,
        source: &'s dyn Source,
        index: usize,
        drawing: impl Fn(u32, u32) -> Option<Drawing>,
    ) -> Result<Loaded<'s>, String> {
        match source.frame(index) {
            Some(frame) => Ok(self.take(frame, drawing)),
            None => self.read(source, index, drawing).map(|()| Loaded::Worker),
        }
    }

    /// Takes pixels as they lie, or resizes them.
    fn take<'s>(
        &mut self,
        frame: Frame<'s>,
        drawing: impl Fn(u32, u32) -> Option<Drawing>,
    ) -> Loaded<'s> {
        self.content = None;
        self.resize(Some(frame), drawing);
        if self.side.is_some() { Loaded::Worker } else { Loaded::Source(frame) }
    }

    fn read(
        &mut self,
        source: &dyn Source,
        index: usize,
        drawing: impl Fn(u32, u32) -> Option<Drawing>,
    ) -> Result<(), String> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let begun = Instant::now();
        let content = source.read(index, &mut bytes);
        self.stages.read += begun.elapsed();
        self.content = content.as_ref().ok().copied();
        let loaded = match content {
            Err(error) => Err(format!("cannot read: {error}")),
            Ok(Content::Encoded) => self.decode(&bytes, drawing).map_err(|error| error.to_string()),
            Ok(Content::Rgb { width, height }) => {
                let image = self.image.reset(width, height).map(|to| to.copy_from_slice(&bytes));
                image.map(|()| self.resize(None, drawing)).map_err(|error| error.to_string())
            }
        };
        self.bytes = bytes;
        loaded
    }

    /// The time spent since this was last asked, for one image.
    pub(super) fn take_stages(&mut self) -> Stages {
        Stages { num_images: 1, ..std::mem::take(&mut self.stages) }
    }

    /// Decodes an image that is already in memory.
    pub(super) fn decode(
        &mut self,
        bytes: &[u8],
        drawing: impl Fn(u32, u32) -> Option<Drawing>,
    ) -> Result<(), DecodeError> {
        match self.decode_region(bytes, &drawing) {
            Ok(()) => Ok(()),
            Err(Unsupported) => self.decode_whole(bytes, drawing),
        }
    }

    /// Decodes and resizes only what is needed of an image, if it is one of those where that can be
    /// done.
    pub(super) fn decode_region(
        &mut self,
        bytes: &[u8],
        drawing: impl Fn(u32, u32) -> Option<Drawing>,
    ) -> Result<(), Unsupported> {
        let drawn = self.region.draw(bytes, drawing, &mut self.square, &mut self.stages)?;
        (self.side, self.is_resized) = (Some(drawn.side), drawn.is_resized);
        Ok(())
    }

    /// Decodes all of an image and resizes it: the way of every format.
    pub(super) fn decode_whole(
        &mut self,
        bytes: &[u8],
        drawing: impl Fn(u32, u32) -> Option<Drawing>,
    ) -> Result<(), DecodeError> {
        let begun = Instant::now();
        let decoded = self.decoder.decode(bytes, &mut self.image);
        self.stages.decode += begun.elapsed();
        decoded?;
        self.resize(None, drawing);
        Ok(())
    }

    /// The file last loaded, if its pixels are the frame as they are.
    pub(super) fn unscaled_file(&self) -> Option<&[u8]> {
        let is_whole = !self.is_resized && self.content == Some(Content::Encoded);
        is_whole.then_some(&self.bytes)
    }

    /// Draws windows of the image last loaded on `out`, one after another.
    ///
    /// `windows` is told how far a window can move in the frame and yields as many windows as `out`
    /// has room for.
    ///
    /// # Errors
    /// [`DataError::Geometry`] if the mean image is not of the frame's size.
    pub(super) fn finish<W: IntoIterator<Item = Window>>(
        &mut self,
        loaded: Loaded<'_>,
        geometry: &Geometry,
        normalisation: &Normalisation,
        shift: [f32; 3],
        windows: impl FnOnce((u32, u32)) -> W,
        out: &mut impl Canvas,
    ) -> Result<(), DataError> {
        let begun = Instant::now();
        self.finisher.set(geometry.crop, normalisation, shift);
        let frame = frame(loaded, self.side, &self.square, &self.image);
        normalisation.check_frame(frame.width, frame.height)?;
        let windows = windows(geometry.slack(frame.width, frame.height));
        for (view, window) in windows.into_iter().enumerate() {
            out.draw(view, &mut self.finisher, frame, geometry, window);
        }
        self.stages.finish += begun.elapsed();
        Ok(())
    }

    /// The picture of the image last loaded that windows are cut from.
    pub(super) fn frame<'a>(&'a self, loaded: Loaded<'a>) -> Frame<'a> {
        frame(loaded, self.side, &self.square, &self.image)
    }

    /// Makes the frame of `picture`, or else of the decoded image.
    fn resize(
        &mut self,
        picture: Option<Frame<'_>>,
        drawing: impl Fn(u32, u32) -> Option<Drawing>,
    ) {
        let Frame { width, height, pixels } = picture.unwrap_or_else(|| whole(&self.image));
        // The whole frame costs little more than the columns and rows that are needed.
        let cover = drawing(width, height).map(|drawing| drawing.cover);
        let cover = cover.filter(|cover| !cover.is_as_stored(width, height));
        self.side = cover.map(|cover| cover.side);
        self.is_resized = cover.is_some();
        let Some(Cover { side, x, y }) = cover else { return };
        let begun = Instant::now();
        self.square.resize(side as usize * side as usize * 3, 0);
        let from = ImageRef::new(width, height, pixels, PixelType::U8x3)
            .expect("an image has width * height * 3 bytes");
        let part = CroppedImage::new(&from, x.first, y.first, x.end - x.first, y.end - y.first)
            .expect("a frame lies over the image");
        let mut to = ResizeTarget::from_slice_u8(side, side, &mut self.square, PixelType::U8x3)
            .expect("the square has side * side * 3 bytes");
        let origin = |axis: Axis| axis.origin - f64::from(axis.first);
        // Rounding must not carry the square beyond the image.
        let extent =
            |axis: Axis| (f64::from(side) * axis.step).min(f64::from(axis.end) - axis.origin);
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .crop(origin(x), origin(y), extent(x), extent(y));
        let resized = self.resizer.resize(&part, &mut to, &options);
        resized.expect("the square lies inside the part");
        self.stages.resize += begun.elapsed();
    }
}

fn frame<'a>(
    loaded: Loaded<'a>,
    side: Option<u32>,
    square: &'a [u8],
    image: &'a Image,
) -> Frame<'a> {
    match (loaded, side) {
        (Loaded::Source(frame), _) => frame,
        (Loaded::Worker, Some(side)) => Frame { width: side, height: side, pixels: square },
        (Loaded::Worker, None) => whole(image),
    }
}

fn whole(image: &Image) -> Frame<'_> {
    Frame { width: image.width(), height: image.height(), pixels: image.pixels() }
}

/// What [`Region::draw`] has drawn.
struct Drawn {
    /// The side of the frame.
    side: u32,
    /// Whether it is not the image as it is stored.
    is_resized: bool,
}

impl Region {
    /// Draws what is needed of the frame into `square`, or says `Unsupported` where the image is not
    /// one for this decoder, or is taken as it is and not square.
    fn draw(
        &mut self,
        bytes: &[u8],
        drawing: impl Fn(u32, u32) -> Option<Drawing>,
        square: &mut Vec<u8>,
        stages: &mut Stages,
    ) -> Result<Drawn, Unsupported> {
        let begun = Instant::now();
        let (width, height) = self.jpeg.open(bytes)?;
        check_size(width, height).map_err(|_| Unsupported)?;
        let drawing = drawing(width, height).ok_or(Unsupported)?;
        let side = drawing.cover.side;
        let drawn = Drawn { side, is_resized: !drawing.cover.is_as_stored(width, height) };
        square.resize(side as usize * side as usize * 3, 0);
        let (left, top) = (drawing.columns.start, drawing.rows.start);
        if drawing.columns.is_empty() || drawing.rows.is_empty() {
            return Ok(drawn); // the window shows only padding
        }
        let colour_step = self.jpeg.colour_step();
        let unscaled = Unscaled::new(&drawing, colour_step);
        let ([columns, rows], lines) = match &unscaled {
            Some(unscaled) => (unscaled.reach(), Lines::Rows),
            None => (self.resample.set(&drawing, colour_step, (width, height)), Lines::Columns),
        };
        let planes = self.jpeg.decode(bytes, columns, rows, lines)?;
        let decoded = Instant::now();
        stages.decode += decoded - begun;
        let start = (top as usize * side as usize + left as usize) * 3;
        let target = Target { out: &mut square[start..], pitch: side as usize * 3 };
        match unscaled {
            Some(unscaled) => unscaled.draw(planes, &mut self.unscaled, target),
            None => self.resample.draw(planes, target),
        }
        stages.resize += decoded.elapsed();
        Ok(drawn)
    }
}
