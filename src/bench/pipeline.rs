//! `bench pipeline`: how many images a second come out of the input pipeline, and how many could.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;
use tempfile::TempDir;

use super::{peak_memory_mib, resident_memory_mib};
use crate::cancel::Cancel;
use crate::cli::{BenchPipelineArgs, Input, PackArgs};
use crate::colours::Colours;
use crate::config::{Config, DataConfig};
use crate::data::packed::{Format, Manifest, Settings, State};
use crate::data::{
    self, BatchReceiver, Delivery, Form, Geometry, Order, Output, Split, TrainLoader,
};
use crate::exit::{Coded, Exit};
use crate::progress::Screen;
use crate::stop::Stop;
use crate::{feed, pack, stdout};

/// Batches before the clock starts: every slot is touched, buffers grow, files enter the page cache.
const WARMUP_BATCHES: usize = 12;
/// What the copies go between, in all: more than caches hold.
const COPIED_BYTES: usize = 256 << 20;

/// Loads training batches, drops them, and prints one line of JSON.
///
/// # Errors
/// If the images cannot be read or packed, or are fewer than a batch.
pub fn pipeline(args: &BenchPipelineArgs, screen: &Screen) -> Result<()> {
    let stop = Stop::default();
    let packed = packed(args, screen, &stop)?;
    let data = packed.as_ref().map_or(args.data.clone(), |dir| dir.path().join(PACK));
    let config = Config::default();
    let (defaults, colours) = (&config.data, Colours::find(&config)?);
    let geometry = Geometry { resize: args.resize, pad: 0, crop: args.crop };
    let threads = feed::num_workers(args.threads);
    let loader = TrainLoader {
        source: data::open(&data, Split::Train)?,
        order: Order::Shuffled,
        geometry,
        variation: args.augment.variation(colours.lighting),
        normalisation: colours.normalisation,
        seed: 1,
        batch: args.batch,
        start_step: 0,
        last_step: None,
        max_bad_fraction: defaults.max_bad_fraction,
    };
    let loader = loader.spawn(Delivery {
        shares: std::iter::once(0..args.batch).collect(),
        consumers_per_share: 1,
        workers: threads,
        depth: defaults.depth,
        form: Form::Finished(args.out),
        pinning: None,
        cancel: Cancel::default(),
    })?;
    let batches = &loader.receivers[0][0];
    let take = |num, time| take(batches, num, time, &stop);
    take(WARMUP_BATCHES, Duration::ZERO)?;
    let (before, memory_before) = (loader.stages(), resident_memory_mib());
    let (num_batches, seconds) = take(1, Duration::from_secs_f64(args.seconds))?;
    let us = (loader.stages() - before).us_per_image();
    let (memory_after, memory_peak) = (resident_memory_mib(), peak_memory_mib());
    loader.join();
    let num_bytes = geometry.num_values() * element_bytes(args.out);
    let images_per_s = (num_batches * args.batch) as f64 / seconds;
    let limit_time = Duration::from_secs_f64(args.seconds / 4.0);
    let result = json!({
        "images_per_s": images_per_s,
        "gb_per_s": images_per_s * num_bytes as f64 / 1e9,
        // What the threads would reach if they did nothing else.
        "decode_only_images_per_s": (us.decode > 0.0).then(|| threads as f64 * 1e6 / us.decode),
        // What one thread reaches with the output's bytes.
        "memcpy_images_per_s": images_copied(num_bytes, limit_time)?,
        "fill_images_per_s": images_filled(num_bytes, limit_time)?,
        "threads": threads,
        "us_per_image": us,
        "memory_mib": { "before": memory_before, "after": memory_after, "peak": memory_peak },
    });
    stdout::line(result)?;
    Ok(())
}

/// The side of packed images.
const PACKED_SIZE: u32 = 256;
/// The packed folder in a temporary one.
const PACK: &str = "packed";

/// Packs the images for the time of the measurement, if they have to be.
fn packed(args: &BenchPipelineArgs, screen: &Screen, stop: &Stop) -> Result<Option<TempDir>> {
    let format = match args.input {
        Input::AsStored => return Ok(None),
        Input::PackedJpeg => Format::Jpeg,
        Input::PackedPixels => Format::U8,
    };
    if is_packed(&args.data, format)? {
        return Ok(None);
    }
    let dir = TempDir::new().context("cannot make a temporary folder; set TMPDIR to another")?;
    let pack = PackArgs {
        src: Some(args.data.clone()),
        dst: Some(dir.path().join(PACK)),
        format,
        size: PACKED_SIZE,
        quality: None,
        shard_images: None,
        workers: 0,
        max_bad_fraction: DataConfig::default().max_bad_fraction,
        verify: None,
    };
    let notice = "stopping; press Ctrl-C again to leave now";
    match pack::run_until(&pack, screen, stop, notice)? {
        Exit::Ok => Ok(Some(dir)),
        _ => Err(stopped()),
    }
}

fn stopped() -> anyhow::Error {
    Coded::new(Exit::Interrupted, anyhow!("stopped; nothing was measured")).into()
}

fn is_packed(data: &Path, format: Format) -> Result<bool> {
    let manifest = if data.is_dir() { Manifest::read(data)? } else { None };
    Ok(manifest.is_some_and(|manifest| {
        let Settings { format: found, size, .. } = manifest.settings;
        manifest.state == State::Complete && (found, size) == (format, PACKED_SIZE)
    }))
}

/// Takes batches for at least `time` and `num`, unless it is to stop; their number and the seconds.
fn take(batches: &BatchReceiver, num: usize, time: Duration, stop: &Stop) -> Result<(usize, f64)> {
    let begun = Instant::now();
    let mut taken = 0;
    while taken < num || begun.elapsed() < time {
        if stop.signal().is_some() {
            return Err(stopped());
        }
        let batch = batches.next()?;
        ensure!(batch.is_some(), "the pipeline ended by itself");
        taken += 1;
    }
    Ok((taken, begun.elapsed().as_secs_f64()))
}

fn element_bytes(output: Output) -> usize {
    match output {
        Output::U8 => 1,
        Output::Bf16 => 2,
        Output::F32 => 4,
    }
}

/// Images of `num_bytes` that one thread copies in a second, between memory too large for caches.
fn images_copied(num_bytes: usize, time: Duration) -> Result<f64> {
    let num_images = (COPIED_BYTES / 2 / num_bytes).max(1);
    // In pages like a batch's.
    let from = data::zeros::<u8>(num_images * num_bytes)?;
    images_written(num_bytes, time, |image, to| {
        to.copy_from_slice(black_box(&from[image * num_bytes..][..num_bytes]));
    })
}

/// Images of `num_bytes` that one thread fills with a constant in a second.
fn images_filled(num_bytes: usize, time: Duration) -> Result<f64> {
    images_written(num_bytes, time, |_, to| to.fill(black_box(1)))
}

/// How often a second `write` writes an image, given its index.
fn images_written(
    num_bytes: usize,
    time: Duration,
    write: impl Fn(usize, &mut [u8]),
) -> Result<f64> {
    let num_images = (COPIED_BYTES / 2 / num_bytes).max(1);
    let mut to = data::zeros::<u8>(num_images * num_bytes)?;
    let begun = Instant::now();
    let mut written = 0;
    while begun.elapsed() < time {
        for (image, to) in to.chunks_exact_mut(num_bytes).enumerate() {
            write(image, black_box(to));
        }
        written += num_images;
    }
    Ok(written as f64 / begun.elapsed().as_secs_f64())
}
