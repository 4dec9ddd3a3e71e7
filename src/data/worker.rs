//! One worker's path from a source's bytes to a frame, in memory that is kept between images.
//!
//! A worker handles one image at a time. It does not choose images and does not judge bad ones.

use std::time::Instant;

use fast_image_resize::images::{Image as ResizeTarget, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::augment::{Geometry, Window};
use super::decode::{DecodeError, Decoder, Image, check_size};
use super::finish::{Finisher, Frame, Normalisation, Pixel};
use super::jpeg::{RegionDecoder, Unsupported};
use super::resample::{Axis, Draw, Scratch, Taps, Taps2};
use super::source::{Content, Source};
use super::stages::Stages;

/// What of the frame will be looked at.
#[derive(Clone, Copy)]
pub(super) enum Needed {
    /// All of it.
    Frame,
    /// One window.
    Window(Window),
}

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
    finisher: Finisher,
    stages: Stages,
}

/// The decoder of regions, and what is drawn from them.
#[derive(Default)]
struct Region {
    jpeg: RegionDecoder,
    full: Taps2,
    colour: Taps2,
    scratch: Scratch,
}

impl Worker {
    /// Makes the frame of image `index`; the error is the reason, without the image's name.
    ///
    /// `needed` is told how far a window can move; the rest of the frame is left unspecified.
    pub(super) fn load<'s>(
        &mut self,
        source: &'s dyn Source,
        index: usize,
        geometry: &Geometry,
        needed: impl Fn((u32, u32)) -> Needed,
    ) -> Result<Loaded<'s>, String> {
        match source.frame(index) {
            Some(frame) => Ok(self.take(frame, geometry)),
            None => self.read(source, index, geometry, needed).map(|()| Loaded::Worker),
        }
    }

    /// Takes pixels as they lie, or resizes them.
    fn take<'s>(&mut self, frame: Frame<'s>, geometry: &Geometry) -> Loaded<'s> {
        self.content = None;
        self.resize(Some(frame), geometry);
        if self.side.is_some() { Loaded::Worker } else { Loaded::Source(frame) }
    }

    fn read(
        &mut self,
        source: &dyn Source,
        index: usize,
        geometry: &Geometry,
        needed: impl Fn((u32, u32)) -> Needed,
    ) -> Result<(), String> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let begun = Instant::now();
        let content = source.read(index, &mut bytes);
        self.stages.read += begun.elapsed();
        self.content = content.as_ref().ok().copied();
        let loaded = match content {
            Err(error) => Err(format!("cannot read: {error}")),
            Ok(Content::Encoded) => {
                self.decode(&bytes, geometry, needed).map_err(|error| error.to_string())
            }
            Ok(Content::Rgb { width, height }) => {
                let image = self.image.reset(width, height).map(|to| to.copy_from_slice(&bytes));
                image.map(|()| self.resize(None, geometry)).map_err(|error| error.to_string())
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
        geometry: &Geometry,
        needed: impl Fn((u32, u32)) -> Needed,
    ) -> Result<(), DecodeError> {
        let drawn = self.region.draw(bytes, geometry, needed, &mut self.square, &mut self.stages);
        if let Ok(side) = drawn {
            self.side = Some(side);
            return Ok(());
        }
        let begun = Instant::now();
        let decoded = self.decoder.decode(bytes, &mut self.image);
        self.stages.decode += begun.elapsed();
        decoded?;
        self.resize(None, geometry);
        Ok(())
    }

    /// The file last loaded, if its pixels are the frame as they are.
    pub(super) fn unscaled_file(&self) -> Option<&[u8]> {
        let is_whole = self.side.is_none() && self.content == Some(Content::Encoded);
        is_whole.then_some(&self.bytes)
    }

    /// Writes windows of the image last loaded to `out`, one after another, each `[crop, crop, 3]`.
    ///
    /// `windows` is told how far a window can move in the frame and yields as many windows as `out`
    /// has room for.
    pub(super) fn finish<P: Pixel, W: IntoIterator<Item = Window>>(
        &mut self,
        loaded: Loaded<'_>,
        geometry: &Geometry,
        normalisation: &Normalisation,
        shift: [f32; 3],
        windows: impl FnOnce((u32, u32)) -> W,
        out: &mut [P],
    ) {
        let begun = Instant::now();
        self.finisher.set(geometry.crop, normalisation, shift);
        let frame = match (loaded, self.side) {
            (Loaded::Source(frame), _) => frame,
            (Loaded::Worker, Some(side)) => {
                Frame { width: side, height: side, pixels: &self.square }
            }
            (Loaded::Worker, None) => whole(&self.image),
        };
        let windows = windows(geometry.slack(frame.width, frame.height));
        for (window, out) in windows.into_iter().zip(out.chunks_exact_mut(geometry.num_values())) {
            self.finisher.window(frame, geometry.pad, window, out);
        }
        self.stages.finish += begun.elapsed();
    }

    /// Makes the frame of `picture`, or else of the decoded image.
    fn resize(&mut self, picture: Option<Frame<'_>>, geometry: &Geometry) {
        let Frame { width, height, pixels } = picture.unwrap_or_else(|| whole(&self.image));
        self.side = geometry.frame_side(width, height);
        let Some(side) = self.side else { return };
        let begun = Instant::now();
        self.square.resize(side as usize * side as usize * 3, 0);
        let from = ImageRef::new(width, height, pixels, PixelType::U8x3)
            .expect("an image has width * height * 3 bytes");
        let mut to = ResizeTarget::from_slice_u8(side, side, &mut self.square, PixelType::U8x3)
            .expect("the square has side * side * 3 bytes");
        let (x, y) = Geometry::axes(side, width, height);
        // Rounding must not carry the square beyond the image.
        let extent =
            |axis: Axis| (f64::from(side) * axis.step).min(f64::from(axis.len) - axis.origin);
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .crop(x.origin, y.origin, extent(x), extent(y));
        let resized = self.resizer.resize(&from, &mut to, &options);
        resized.expect("the central square lies inside the image");
        self.stages.resize += begun.elapsed();
    }
}

fn whole(image: &Image) -> Frame<'_> {
    Frame { width: image.width(), height: image.height(), pixels: image.pixels() }
}

impl Region {
    /// Draws what is needed of the frame into `square`; its side, or `Unsupported` where the image
    /// is not one for this decoder or needs no resizing.
    fn draw(
        &mut self,
        bytes: &[u8],
        geometry: &Geometry,
        needed: impl Fn((u32, u32)) -> Needed,
        square: &mut Vec<u8>,
        stages: &mut Stages,
    ) -> Result<u32, Unsupported> {
        let begun = Instant::now();
        let (width, height) = self.jpeg.open(bytes)?;
        check_size(width, height).map_err(|_| Unsupported)?;
        let side = geometry.frame_side(width, height).ok_or(Unsupported)?;
        let whole = (0..side, 0..side);
        let (columns, rows) = match needed(geometry.slack(side, side)) {
            Needed::Frame => whole,
            Needed::Window(window) => geometry.covered(side, window),
        };
        square.resize(side as usize * side as usize * 3, 0);
        if columns.is_empty() || rows.is_empty() {
            return Ok(side); // the window shows only padding
        }
        let start = (rows.start as usize * side as usize + columns.start as usize) * 3;
        let (x, y) = Geometry::axes(side, width, height);
        let coarseness = self.jpeg.colour_step();
        self.full.columns.set(x, 1, columns.clone());
        self.full.rows.set(y, 1, rows.clone());
        self.colour.columns.set(x, coarseness.0, columns);
        self.colour.rows.set(y, coarseness.1, rows);
        let reach = |full: &Taps, colour: &Taps, by: usize, len: u32| {
            let (full, colour) = (full.reach(), colour.reach());
            full.start.min(colour.start * by)..full.end.max(colour.end * by).min(len as usize)
        };
        let columns = reach(&self.full.columns, &self.colour.columns, coarseness.0, width);
        let rows = reach(&self.full.rows, &self.colour.rows, coarseness.1, height);
        let planes = self.jpeg.decode(bytes, columns, rows)?;
        let decoded = Instant::now();
        stages.decode += decoded - begun;
        let (full, colour, scratch) = (&self.full, &self.colour, &mut self.scratch);
        let (out, pitch) = (&mut square[start..], side as usize * 3);
        Draw { planes, full, colour, scratch, out, pitch }.draw();
        stages.resize += decoded.elapsed();
        Ok(side)
    }
}
