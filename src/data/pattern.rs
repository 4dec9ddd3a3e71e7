//! The pictures of the generated set: ten classes told apart by structure, never by a single colour.
//!
//! Each picture is a pure function of its class, its size and its key. Gratings, checks and rings
//! have any two colours; blobs are told by colour but stand on backgrounds of any colour. No class
//! is the mirror image of another, so reflection keeps labels right. Files are not its business.

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, TAU};

use crate::random::Key;

/// The class names, sorted, so that the index is the label an image folder gives them.
pub(super) const CLASSES: [&str; 10] = [
    "blob-blue",
    "blob-green",
    "blob-red",
    "checkerboard",
    "gradient",
    "grating-diagonal",
    "grating-horizontal",
    "grating-vertical",
    "rings",
    "spots",
];

type Rgb = [f64; 3];

/// Everything random about a picture but its noise. Lengths are fractions of the side.
struct Scene {
    class: &'static str,
    /// Cycles across the picture.
    cycles: f64,
    phase: f64,
    /// Radians from the horizontal axis, the direction in which a grating varies.
    angle: f64,
    centre: (f64, f64),
    radius: f64,
    low: Rgb,
    high: Rgb,
}

/// Draws a picture of `size` x `size` as interleaved RGB8.
pub(super) fn draw(class: usize, size: u32, key: Key) -> Vec<u8> {
    let scene = Scene::new(CLASSES[class], key.with(0));
    let noise_std = 2.0 + 8.0 * key.with(1).uniform(0);
    let noise = key.with(2);
    let mut pixels = Vec::with_capacity(size as usize * size as usize * 3);
    for y in 0..size {
        for x in 0..size {
            let at = |i: u32| (f64::from(i) + 0.5) / f64::from(size);
            let amount = scene.amount(at(x), at(y));
            for c in 0..3 {
                let value = scene.low[c] + (scene.high[c] - scene.low[c]) * amount;
                // A uniform draw of the wanted deviation: cheap, and no outliers.
                let draw = noise.uniform(pixels.len() as u64) - 0.5;
                pixels.push((value + noise_std * 12f64.sqrt() * draw).round() as u8);
            }
        }
    }
    pixels
}

impl Scene {
    fn new(class: &'static str, key: Key) -> Self {
        let range = |index, low: f64, high: f64| low + (high - low) * key.uniform(index);
        let tilt = range(0, -0.12, 0.12);
        let sign = if key.bits(1) >> 63 == 0 { 1.0 } else { -1.0 };
        let angle = match class {
            "grating-horizontal" => FRAC_PI_2 + tilt,
            "grating-diagonal" => sign * FRAC_PI_4 + tilt,
            "gradient" => range(2, 0.0, TAU),
            _ => tilt,
        };
        let (low, high) = colours(class, key.with(1));
        Self {
            class,
            cycles: range(3, 3.0, 7.0),
            phase: range(4, 0.0, TAU),
            angle,
            centre: (range(5, 0.3, 0.7), range(6, 0.3, 0.7)),
            radius: range(7, 0.12, 0.28),
            low,
            high,
        }
    }

    /// How much of the `high` colour there is at a point, 0 to 1.
    fn amount(&self, x: f64, y: f64) -> f64 {
        let (sin, cos) = self.angle.sin_cos();
        let (dx, dy) = (x - self.centre.0, y - self.centre.1);
        let along = TAU * self.cycles * (x * cos + y * sin) + self.phase;
        let across = TAU * self.cycles * (y * cos - x * sin) + self.phase;
        match self.class {
            "checkerboard" => 0.5 + 0.5 * (2.0 * along.sin() * across.sin()).clamp(-1.0, 1.0),
            "gradient" => (0.5 + dx * cos + dy * sin).clamp(0.0, 1.0),
            "rings" => 0.5 + 0.5 * (TAU * self.cycles * dx.hypot(dy) + self.phase).sin(),
            "spots" => (1.6 * along.sin() * across.sin()).clamp(0.0, 1.0).powi(3),
            blob if blob.starts_with("blob") => {
                (-(dx * dx + dy * dy) / (self.radius * self.radius)).exp()
            }
            _ => 0.5 + 0.5 * along.sin(),
        }
    }
}

/// The two colours of a picture, far enough apart to be seen.
fn colours(class: &str, key: Key) -> (Rgb, Rgb) {
    let draw = |index, low: f64, high: f64| low + (high - low) * key.uniform(index);
    let strong = match class {
        "blob-red" => Some(0),
        "blob-green" => Some(1),
        "blob-blue" => Some(2),
        _ => None,
    };
    if let Some(strong) = strong {
        let ground = [0, 1, 2].map(|c| draw(c, 40.0, 150.0));
        let blob = [0, 1, 2].map(|c| match c as usize == strong {
            true => draw(3 + c, 200.0, 250.0),
            false => draw(3 + c, 5.0, 70.0),
        });
        return (ground, blob);
    }
    // Opposite ends of a random contrast in every channel, each channel in a random direction.
    let mut ends = ([0.0; 3], [0.0; 3]);
    for c in 0..3 {
        let (middle, half) = (draw(6 + c, 90.0, 165.0), draw(9 + c, 30.0, 80.0));
        let half = if key.bits(12 + c) >> 63 == 0 { half } else { -half };
        (ends.0[c as usize], ends.1[c as usize]) = (middle - half, middle + half);
    }
    ends
}
