//! Square images on all workers, handed over in the order of the source.
//!
//! Memory is two chunks of images, allocated once: while one is taken away the other is filled. What
//! becomes of the images is up to the taker.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::data::Source;
use crate::data::moments::Moments;
use crate::data::packed::{Format, Settings, Squarer};
use crate::stop::Go;

/// Of pixels in a chunk, unless that is less than one image for each worker.
const CHUNK_BYTES: usize = 64 << 20;
/// Images a worker takes from a chunk, at most.
const IMAGES_PER_WORKER: usize = 16;

/// An image as it will be stored, or why it cannot be.
pub(super) struct Slot {
    pub(super) bytes: Vec<u8>,
    pub(super) made: Result<Moments, String>,
}

impl Default for Slot {
    fn default() -> Self {
        Self { bytes: Vec::new(), made: Ok(Moments::default()) }
    }
}

/// The memory of the workers in `pool`.
pub(super) struct Workshop<'a> {
    pool: &'a ThreadPool,
    /// One per thread of the pool, by thread index; never contended.
    makers: Vec<Mutex<Maker>>,
    /// Two chunks.
    chunks: [Vec<Slot>; 2],
}

impl<'a> Workshop<'a> {
    /// Takes the memory that images of these settings need.
    pub(super) fn new(pool: &'a ThreadPool, settings: &Settings) -> Self {
        let num_workers = pool.current_num_threads();
        let image_bytes = settings.image_bytes();
        let chunk = (CHUNK_BYTES / image_bytes).clamp(num_workers, IMAGES_PER_WORKER * num_workers);
        let maker = || Maker { settings: settings.clone(), ..Maker::default() };
        Self {
            pool,
            makers: (0..num_workers).map(|_| Mutex::new(maker())).collect(),
            chunks: [(); 2].map(|()| (0..chunk).map(|_| Slot::default()).collect()),
        }
    }

    /// Makes the images `range` of `source`. `take` gets the index of the first image of a chunk and
    /// the chunk, in order, until it says to stop.
    pub(super) fn make(
        &mut self,
        source: &dyn Source,
        range: Range<usize>,
        mut take: impl FnMut(usize, &[Slot]) -> Result<Go> + Send,
    ) -> Result<Go> {
        let Self { pool, makers, chunks: [ready, next] } = self;
        let fill = |first: usize, slots: &mut Vec<Slot>| {
            let num = slots.len().min(range.end - first);
            slots[..num].par_iter_mut().enumerate().for_each(|(i, slot)| {
                let thread = rayon::current_thread_index().unwrap_or(0);
                let mut maker = makers[thread].lock().unwrap_or_else(PoisonError::into_inner);
                slot.made = maker.make(source, first + i, &mut slot.bytes);
            });
            num
        };
        pool.install(|| {
            let (mut first, mut num) = (range.start, fill(range.start, ready));
            while num > 0 {
                let then = first + num;
                let (taken, num_next) =
                    rayon::join(|| take(first, &ready[..num]), || fill(then, next));
                if taken? == Go::Stop {
                    return Ok(Go::Stop);
                }
                std::mem::swap(ready, next);
                (first, num) = (then, num_next);
            }
            Ok(Go::Continue)
        })
    }
}

/// The memory of one worker.
#[derive(Default)]
struct Maker {
    settings: Settings,
    squarer: Squarer,
    square: Vec<u8>,
}

impl Maker {
    /// Replaces `bytes` by what is stored of an image.
    fn make(
        &mut self,
        source: &dyn Source,
        index: usize,
        bytes: &mut Vec<u8>,
    ) -> Result<Moments, String> {
        let Settings { format, size, quality, .. } = self.settings;
        let num_bytes = self.settings.image_bytes();
        let pixels = match format {
            Format::U8 => &mut *bytes,
            Format::Jpeg => &mut self.square,
        };
        pixels.resize(num_bytes, 0);
        self.squarer.draw(source, index, size, pixels)?;
        let moments = Moments::of(pixels);
        if format == Format::Jpeg {
            bytes.clear();
            match self.squarer.unscaled_file() {
                // Compressing it once more would only lose something.
                Some(file) if file.starts_with(&[0xff, 0xd8, 0xff]) => bytes.extend(file),
                _ => {
                    encode(&self.square, size, quality.expect("JPEG files have a quality"), bytes)?
                }
            }
        }
        Ok(moments)
    }
}

/// A baseline JPEG with colours at half the resolution, as photographs on the web have them.
fn encode(pixels: &[u8], size: u32, quality: u8, to: &mut Vec<u8>) -> Result<(), String> {
    let size = u16::try_from(size).map_err(|_| format!("{size} pixels are too many for JPEG"))?;
    let mut encoder = Encoder::new(to, quality);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    let encoded = encoder.encode(pixels, size, size, ColorType::Rgb);
    encoded.map_err(|error| format!("cannot compress: {error}"))
}
