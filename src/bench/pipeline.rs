//! `bench pipeline`: how many images a second come out of the input pipeline.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::peak_memory_mib;
use crate::cancel::Cancel;
use crate::cli::BenchPipelineArgs;
use crate::colours::Colours;
use crate::config::Config;
use crate::data::{self, BatchReceiver, Delivery, Geometry, Order, Output, Split, TrainLoader};
use crate::feed;

/// Batches before the clock starts: every slot is touched, buffers grow, files enter the page cache.
const WARMUP_BATCHES: usize = 12;

/// Loads training batches, drops them, and prints one line of JSON.
///
/// # Errors
/// If the images cannot be read, or are fewer than a batch.
#[allow(clippy::print_stdout, reason = "the result of the command")]
pub fn pipeline(args: &BenchPipelineArgs) -> Result<()> {
    let config = Config::default();
    let (defaults, colours) = (&config.data, Colours::find(&config)?);
    let source = data::open(&args.data, Split::Train)?;
    let geometry = Geometry { resize: args.resize as u32, pad: 0, crop: args.crop as u32 };
    let workers = feed::num_workers(args.threads);
    let loader = TrainLoader {
        source,
        order: Order::Shuffled,
        geometry,
        recipe: args.augment.recipe(colours.lighting),
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
        workers,
        depth: defaults.depth,
        output: args.output,
        cancel: Cancel::default(),
    })?;
    let batches = &loader.receivers[0][0];
    take(batches, WARMUP_BATCHES, Duration::ZERO)?;
    let before = loader.stages();
    let (num_batches, seconds) = take(batches, 1, Duration::from_secs_f64(args.seconds))?;
    let stages = loader.stages() - before;
    loader.join();
    let values = geometry.num_values();
    let num_bytes = values * element_bytes(args.output);
    let result = json!({
        "images_per_s": (num_batches * args.batch) as f64 / seconds,
        "memcpy_images_per_s": memcpy(num_bytes, Duration::from_secs_f64(args.seconds / 4.0)),
        "threads": workers,
        "us_per_image": {
            "read": stages.read.as_secs_f64() * 1e6 / stages.num_images as f64,
            "decode": stages.decode.as_secs_f64() * 1e6 / stages.num_images as f64,
            "finish": stages.finish.as_secs_f64() * 1e6 / stages.num_images as f64,
        },
        "peak_memory_mib": peak_memory_mib(),
    });
    println!("{result}");
    Ok(())
}

/// Takes batches for at least `time` and `num`; their number and the seconds.
fn take(batches: &BatchReceiver, num: usize, time: Duration) -> Result<(usize, f64)> {
    let begun = Instant::now();
    let mut taken = 0;
    while taken < num || begun.elapsed() < time {
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
fn memcpy(num_bytes: usize, time: Duration) -> f64 {
    const IMAGES: usize = 512;
    let from = vec![1u8; IMAGES * num_bytes];
    let mut to = vec![2u8; IMAGES * num_bytes];
    let begun = Instant::now();
    let mut copied = 0;
    while begun.elapsed() < time {
        for (to, from) in to.chunks_exact_mut(num_bytes).zip(from.chunks_exact(num_bytes)) {
            black_box(to).copy_from_slice(black_box(from));
        }
        copied += IMAGES;
    }
    copied as f64 / begun.elapsed().as_secs_f64()
}
