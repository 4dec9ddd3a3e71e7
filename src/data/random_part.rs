//! A random part of an image: torchvision's `RandomResizedCrop`.
//!
//! Area and shape are drawn until the rectangle fits, ten times at most; then the largest central
//! part of an allowed shape is taken. The draws come from one key, so a part depends on nothing but
//! the key and the image's size.

use std::ops::RangeInclusive;

use super::cover::Part;
use crate::random::Key;

/// The area, as a fraction of the image's.
const AREA: RangeInclusive<f64> = 0.08..=1.0;
/// Width over height.
const RATIO: RangeInclusive<f64> = 3.0 / 4.0..=4.0 / 3.0;
/// How many rectangles are tried.
const TRIES: u64 = 10;
/// Draws of a try: area, ratio, left, top.
const DRAWS: u64 = 4;

impl Part {
    /// A random part of a `width` x `height` image.
    pub(super) fn random(width: u32, height: u32, key: Key) -> Self {
        let tries = (0..TRIES).map(|index| index * DRAWS);
        tries
            .into_iter()
            .find_map(|at| attempt(width, height, key, at))
            .unwrap_or_else(|| central(width, height))
    }
}

/// The rectangle of the draws from index `at` on, if it fits.
fn attempt(width: u32, height: u32, key: Key, at: u64) -> Option<Part> {
    let between = |index, range: RangeInclusive<f64>| {
        range.start() + (range.end() - range.start()) * key.uniform(at + index)
    };
    let area = f64::from(width) * f64::from(height) * between(0, AREA);
    let ratio = between(1, RATIO.start().ln()..=RATIO.end().ln()).exp();
    let part_width = (area * ratio).sqrt().round_ties_even() as u32;
    let part_height = (area / ratio).sqrt().round_ties_even() as u32;
    if !(1..=width).contains(&part_width) || !(1..=height).contains(&part_height) {
        return None;
    }
    let below = |index, slack: u32| key.below(at + index, u64::from(slack) + 1) as u32;
    Some(Part {
        left: below(2, width - part_width),
        top: below(3, height - part_height),
        width: part_width,
        height: part_height,
    })
}

/// The largest part in the middle whose shape is allowed.
fn central(width: u32, height: u32) -> Part {
    let (w, h) = (f64::from(width), f64::from(height));
    // Clamped, because a part of an image one pixel high or wide has a side of at least one.
    let rounded = |side: f64, limit: u32| (side.round_ties_even() as u32).clamp(1, limit);
    let (part_width, part_height) = match w / h {
        ratio if ratio < *RATIO.start() => (width, rounded(w / RATIO.start(), height)),
        ratio if ratio > *RATIO.end() => (rounded(h * RATIO.end(), width), height),
        _ => (width, height),
    };
    Part {
        left: (width - part_width) / 2,
        top: (height - part_height) / 2,
        width: part_width,
        height: part_height,
    }
}
