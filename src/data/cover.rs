//! How a frame lies over an image, and what of it is drawn.
//!
//! A frame is a square of output pixels laid over a rectangle of the image: the central square of a
//! resized image, or any part of it scaled to the network's input. Both decoders draw from the same
//! [`Drawing`]. Who chose the rectangle, and the window that is cut from the frame, is not known here.

use std::ops::Range;

/// A rectangle of an image, in pixels; at least one each way, and inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) width: u32,
    pub(super) height: u32,
}

/// One direction of a frame laid over an image: the centre of frame pixel `i` lies at
/// `origin + (i + 0.5) * step` image pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) origin: f64,
    pub(super) step: f64,
    /// The image pixels that have a weight, `first..end`: the image, or the part of it drawn.
    pub(super) first: u32,
    pub(super) end: u32,
}

/// A square frame laid over an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cover {
    /// Pixels a side.
    pub(super) side: u32,
    /// Across.
    pub(super) x: Axis,
    /// Down.
    pub(super) y: Axis,
}

impl Cover {
    /// The central square of an image whose shorter side is scaled to `side` and whose longer one
    /// in proportion, rounded down.
    pub(super) fn centre(side: u32, width: u32, height: u32) -> Self {
        let short = width.min(height);
        let axis = |len: u32| {
            let scaled = (u64::from(side) * u64::from(len) / u64::from(short)) as u32;
            let step = f64::from(len) / f64::from(scaled);
            Axis { origin: f64::from(centre(scaled - side)) * step, step, first: 0, end: len }
        };
        Self { side, x: axis(width), y: axis(height) }
    }

    /// Whether the frame is the image pixel by pixel.
    pub(super) fn is_as_stored(&self, width: u32, height: u32) -> bool {
        let axis = |len| Axis { origin: 0.0, step: 1.0, first: 0, end: len };
        (self.side, self.side) == (width, height) && (self.x, self.y) == (axis(width), axis(height))
    }

    /// All of `part`, which no weight reaches beyond: as if the image ended at its border.
    pub(super) fn part(side: u32, part: Part) -> Self {
        let axis = |first: u32, len: u32| {
            let step = f64::from(len) / f64::from(side);
            Axis { origin: f64::from(first), step, first, end: first + len }
        };
        Self { side, x: axis(part.left, part.width), y: axis(part.top, part.height) }
    }
}

/// The first of the two margins that leave what is between them in the middle; half a pixel goes to
/// the even side, as Python rounds.
pub(super) fn centre(slack: u32) -> u32 {
    (f64::from(slack) / 2.0).round_ties_even() as u32
}

/// A square of `crop` pixels in the padded frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Columns from the left edge of the padded frame.
    pub left: u32,
    /// Rows from its top.
    pub top: u32,
    /// Whether the window is mirrored left to right.
    pub mirrored: bool,
}

/// What of a frame will be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needed {
    /// All of it.
    Frame,
    /// One window.
    Window(Window),
}

/// A frame and the columns and rows of it to draw; the rest is left unspecified.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Drawing {
    pub(super) cover: Cover,
    pub(super) columns: Range<u32>,
    pub(super) rows: Range<u32>,
}

impl Drawing {
    /// The whole frame.
    pub(super) fn whole(cover: Cover) -> Self {
        Self { columns: 0..cover.side, rows: 0..cover.side, cover }
    }
}
