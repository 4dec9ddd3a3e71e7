//! `bench step`: how fast a training step is, without the input pipeline.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};

use super::peak_memory_mib;
use crate::cli::BenchStepArgs;
use crate::config::Config;
use crate::data::{Batch, Pixels};
use crate::random::{Key, Purpose};
use crate::run;

/// Trains on one synthetic batch and prints peak memory, the bytes each rank sends in a step, the rate over
/// all timed steps as `mean: X img/s` and, last, that of the median step as `X img/s`.
///
/// # Errors
/// If there are no such devices, or a step fails.
#[allow(clippy::print_stdout, reason = "the result of the command")]
pub fn step(args: &BenchStepArgs) -> Result<()> {
    let mut config = Config::default();
    config.net.arch = args.arch;
    config.devices.gpus = args.gpus.clone();
    config.devices.mode = args.mode;
    config.devices.device = args.device;
    config.devices.backend = args.backend;
    config.devices.threads = args.threads;
    config.devices.wire = args.wire;
    config.train.batch_size = args.batch;
    config.train.precision = args.precision;
    let world = run::world(&config)?;
    let arch = run::architecture(&config, 1000)?;
    let shares = world.topology.shares(args.batch);
    let times = world.run(|place| {
        let batch = Arc::new(synthetic(shares[place.replica].clone(), arch.input as usize));
        let mut worker = run::worker(&config, &arch, &world, place)?;
        worker.intake.keep_resident(&batch)?;
        let (mut seconds, mut wire_bytes) = (Vec::with_capacity(args.steps), 0);
        let mut timed = None;
        for step in 0..(args.warmup + args.steps) as u64 {
            let begun = Instant::now();
            if let Some(done) = worker.step(&batch, step, 1e-6)? {
                wire_bytes = done.wire_bytes;
            }
            if step >= args.warmup as u64 {
                timed.get_or_insert(begun);
                seconds.push(begun.elapsed().as_secs_f64());
            }
        }
        if let Some(done) = worker.settle()? {
            wire_bytes = done.wire_bytes;
        }
        let whole = timed.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
        Ok((seconds, whole, wire_bytes))
    })?;
    let first = times.into_iter().next();
    let (mut seconds, whole, wire_bytes) = first.context("there is always a first rank")?;
    seconds.sort_by(f64::total_cmp);
    if let Some(mib) = peak_memory_mib() {
        println!("peak memory: {mib} MiB");
    }
    println!("wire: {wire_bytes} bytes a step and rank");
    println!("mean: {:.1} img/s", (args.batch * args.steps) as f64 / whole);
    println!("{:.1} img/s", args.batch as f64 / seconds[seconds.len() / 2]);
    Ok(())
}

/// Noise of a photograph's contrast, after mean subtraction.
fn synthetic(share: std::ops::Range<usize>, side: usize) -> Batch {
    let key = Key::new(1, Purpose::Generate);
    let num_floats = share.len() * side * side * 3;
    let first = (share.start * side * side * 3) as u64;
    let pixel = |i: u64| (key.uniform(first + i) * 240.0 - 120.0) as f32;
    let images = Pixels::F32((0..num_floats as u64).map(pixel).collect());
    Batch::standalone(share.start, images, share.map(|i| i as i64 % 1000).collect())
}
