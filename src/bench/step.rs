//! `bench step`: how fast a training step is, without the input pipeline; and `gpu-check steps`, the same in turns
//! with other programs.

use std::io::stdin;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use tch::Device;

use super::peak_memory_mib;
use crate::cli::BenchStepArgs;
use crate::config::Config;
use crate::data::{Batch, Output, Pixels};
use crate::launch::{Place, World};
use crate::random::{Key, Purpose};
use crate::run;
use crate::stdout;
use crate::stopwatch::Mark;
use crate::train::Worker;

/// Trains on one synthetic batch and prints peak memory on CPUs, the bytes each rank sends in a step, the rate over
/// all timed steps as `mean: X img/s` and, last, that of the median step as `X img/s`.
///
/// # Errors
/// If there are no such devices, or a step fails.
pub fn step(args: &BenchStepArgs) -> Result<()> {
    let config = Config::from_flags(args.overrides()?)?;
    let world = run::world(&config)?;
    let rates = world.run(|place| {
        let mut ready = Ready::new(&config, &world, place)?;
        ready.time(args.warmup, args.steps)
    })?;
    let rates = rates.into_iter().next().context("there is always a first rank")?;
    // Of a GPU's memory nothing is known here.
    if let (Device::Cpu, Some(mib)) = (world.devices[0], peak_memory_mib()) {
        stdout::line(format_args!("peak memory: {mib} MiB"))?;
    }
    stdout::line(format_args!("wire: {} bytes a step and rank", rates.wire_bytes))?;
    stdout::line(format_args!("mean: {:.1} img/s", rates.mean))?;
    stdout::line(format_args!("{:.1} img/s", rates.median))?;
    Ok(())
}

/// Answers each line of standard input, the flags of a [`step`] on one device, with its mean rate as
/// `X img/s`, or with `failed: ` and why. Lines that differ in their numbers of steps only are about one
/// worker: programs that take turns start once.
///
/// # Errors
/// If a line cannot be read.
pub fn steps() -> Result<()> {
    let mut asked = next_line()?;
    while let Some(line) = asked {
        asked = match BenchStepArgs::of_line(&line).and_then(answer) {
            Ok(other) => other,
            Err(error) => {
                stdout::line(format_args!("failed: {}", format!("{error:#}").replace('\n', " ")))?;
                next_line()?
            }
        };
    }
    Ok(())
}

fn next_line() -> Result<Option<String>> {
    Ok(stdin().lines().next().transpose()?)
}

/// Answers `args` and the lines that follow, until one is about another step: that is returned.
fn answer(args: BenchStepArgs) -> Result<Option<String>> {
    let config = Config::from_flags(args.overrides()?)?;
    let world = run::world(&config)?;
    ensure!(world.devices.len() == 1, "steps are timed in turns on one device, not on several");
    let mut left = world.run(|place| {
        let mut ready = Ready::new(&config, &world, place)?;
        let mut asked = args.clone();
        loop {
            stdout::line(format_args!("{:.1} img/s", ready.time(asked.warmup, asked.steps)?.mean))?;
            let Some(line) = next_line()? else { return Ok(None) };
            match BenchStepArgs::of_line(&line) {
                Ok(again) if again.is_about_the_step_of(&args) => asked = again,
                _ => return Ok(Some(line)),
            }
        }
    })?;
    Ok(left.pop().flatten())
}

/// A rank with its share of a synthetic batch on its device.
struct Ready {
    worker: Worker,
    batch: Arc<Batch>,
    global_batch: usize,
    next_step: u64,
    wire_bytes: u64,
}

/// How fast steps were, in images a second on all ranks together.
struct Rates {
    mean: f64,
    median: f64,
    wire_bytes: u64,
}

impl Ready {
    fn new(config: &Config, world: &World, place: Place) -> Result<Self> {
        let arch = run::architecture(config, 1000)?;
        let global_batch = config.train.batch_size;
        let share = world.topology.shares(global_batch)[place.replica].clone();
        let batch = Arc::new(synthetic(share, arch.input as usize)?);
        let mut worker = run::worker(config, &arch, world, place, run::drawn(config))?;
        worker.intake.keep_resident(&batch)?;
        Ok(Self { worker, batch, global_batch, next_step: 0, wire_bytes: 0 })
    }

    fn step(&mut self) -> Result<()> {
        let done = self.worker.step(&self.batch, self.next_step, 1e-6)?;
        self.next_step += 1;
        self.wire_bytes = done.map_or(self.wire_bytes, |done| done.wire_bytes);
        Ok(())
    }

    /// The mean by the device's clock, the median by the host's: between the returns of two calls a device
    /// that is the slower of the two has done one step.
    fn time(&mut self, warmup: usize, steps: usize) -> Result<Rates> {
        (0..warmup).try_for_each(|_| self.step())?;
        let device = self.worker.place.device;
        let begin = Mark::on(device)?;
        let mut seconds = Vec::with_capacity(steps);
        for _ in 0..steps {
            let begun = Instant::now();
            self.step()?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
        let end = Mark::on(device)?;
        if let Some(done) = self.worker.settle()? {
            self.wire_bytes = done.wire_bytes;
        }
        seconds.sort_by(f64::total_cmp);
        let batch = self.global_batch as f64;
        Ok(Rates {
            mean: batch * steps as f64 / begin.seconds_to(&end)?,
            median: batch / seconds[steps / 2],
            wire_bytes: self.wire_bytes,
        })
    }
}

/// Noise of a photograph's contrast, after mean subtraction.
fn synthetic(share: std::ops::Range<usize>, side: usize) -> Result<Batch> {
    let key = Key::new(1, Purpose::Generate);
    let num_floats = share.len().saturating_mul(side * side * 3);
    let first = (share.start * side * side * 3) as u64;
    let pixel = |i: usize| (key.uniform(first + i as u64) * 240.0 - 120.0) as f32;
    let mut images = Pixels::new(Output::F32, num_floats)?;
    if let Pixels::F32(values) = &mut images {
        values.par_iter_mut().enumerate().for_each(|(i, value)| *value = pixel(i));
    }
    Ok(Batch::standalone(share.start, images, share.map(|i| i as i64 % 1000).collect()))
}
