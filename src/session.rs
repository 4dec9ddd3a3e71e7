//! A training run from its configuration to its last checkpoint.
//!
//! Ranks follow the same sequence of steps and agree on everything by arithmetic, not by messages: the
//! schedule is a function of the step and of tallies that all have, and [`Stop`] names the last step.

mod for_each_rank;
mod reporting;
mod saving;

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};

use crate::checkpoint::{self, Mark};
use crate::colours;
use crate::config::{Config, Resume, ScheduleKind};
use crate::data::Views;
use crate::diverged::Diverged;
use crate::exit::{Coded, Exit};
use crate::feed::Feed;
use crate::launch::{Place, World};
use crate::metrics::{EvalReport, Metrics};
use crate::net::arch::Architecture;
use crate::net::loss::Tally;
use crate::params::ParamSpec;
use crate::progress::{LogFile, Progress, RunLength, Screen};
use crate::run::{self, Handout};
use crate::run_folder::RunFolder;
use crate::schedule::{Rule, Schedule};
use crate::stop::{Go, Stop};
use crate::train::Worker;
use for_each_rank::ForEachRank;
use reporting::{Noted, Notes};
use saving::{Assembly, Origin, Resumed, open_folder, read_checkpoint, read_pretrained};

/// What all ranks of a run share.
pub struct Session<'a> {
    config: &'a Config,
    world: World,
    arch: Architecture,
    feed: Feed,
    folder: RunFolder,
    /// The resolved configuration, for checkpoints.
    recipe: String,
    metrics: Metrics,
    stop: Stop,
    length: RunLength,
    start: u64,
    /// What a rank begins from.
    origin: ForEachRank<Origin>,
    /// The loader of the evaluation under way.
    evaluation: ForEachRank<Handout>,
    /// The parts of a checkpoint that other ranks have laid down.
    assembly: Mutex<Assembly>,
}

/// Where a rank stands.
struct Progressing {
    schedule: Schedule,
    best_top1: Option<f64>,
    tally: Option<Tally>,
    /// Steps done at the last checkpoint, or where the run began.
    saved: u64,
    /// Steps that the metrics have not got yet.
    notes: Notes,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The code for the shell.
    pub exit: Exit,
    /// Where everything lies.
    pub folder: PathBuf,
    /// The links to checkpoints that are there: `last`, `best`.
    pub links: Vec<&'static str>,
    /// The last evaluation.
    pub tally: Option<Tally>,
    /// One of the test images, if they are files.
    pub example: Option<PathBuf>,
}

/// Trains as `config` says.
///
/// # Errors
/// Whatever makes the run impossible, or ends it.
pub fn train(config: &Config, screen: &Screen, log: &LogFile) -> Result<Outcome> {
    let config = &colours::resolved(config)?;
    let Some(session) = Session::open(config, screen, log)? else {
        return Ok(untouched(config));
    };
    crate::stop::install_signals(session.stop.clone())?;
    let topology = session.world.topology;
    let steps = session.start..session.length.total_steps;
    let loader = session.feed.train(config, topology, steps, &session.world.cancel)?;
    let batches = Handout::new(loader);
    let ends = session.world.run(|place| session.rank(place, &batches))?;
    session.metrics.finish()?;
    if let num_bad @ 1.. = batches.num_bad() {
        tracing::warn!(
            "{num_bad} of {} training images could not be read and were replaced (named above)",
            session.feed.train.len()
        );
    }
    let exit = match session.stop.stopped_before(session.length.total_steps) {
        true => Exit::Saved,
        false => Exit::Ok,
    };
    let tally = ends.into_iter().next().flatten();
    let folder = session.folder.path().to_path_buf();
    let example = Some(PathBuf::from(session.feed.test.name(0))).filter(|path| path.is_file());
    let links = checkpoint::links(&folder);
    Ok(Outcome { exit, folder, links, tally, example })
}

/// The end of a run that has nothing left to do.
fn untouched(config: &Config) -> Outcome {
    let from = match &config.run.resume {
        Resume::From(path) => checkpoint::run_folder(path),
        Resume::Auto | Resume::Off => None,
    };
    let folder = from.unwrap_or_else(|| config.run_dir());
    Outcome {
        exit: Exit::Ok,
        links: checkpoint::links(&folder),
        folder,
        tally: None,
        example: None,
    }
}

impl<'a> Session<'a> {
    /// Everything that a run needs, or nothing if all its steps were done before.
    fn open(config: &'a Config, screen: &Screen, log: &LogFile) -> Result<Option<Self>> {
        let world = run::world(config)?;
        // The input side does not depend on the number of classes.
        let side = run::architecture(config, config.net.classes.max(1))?.input;
        let feed = Feed::open(config, side as usize, &world.devices)?;
        let classes = feed.train.classes().len();
        if config.net.classes != 0 && config.net.classes != classes {
            let error = anyhow!(
                "net.classes is {}, and the images have {classes} classes; leave it at 0 to take theirs",
                config.net.classes
            );
            return Err(Coded::new(Exit::Usage, error).into());
        }
        let arch = run::architecture(config, classes)?;
        let steps_per_epoch = feed.steps_per_epoch(config.train.batch_size)?;
        let all = steps_per_epoch * config.train.epochs as u64;
        let total_steps = match config.train.max_steps as u64 {
            0 => all,
            limit => limit.min(all),
        };
        let length = RunLength { steps_per_epoch, total_steps };
        // All that can be wrong is found before there is a folder.
        let resumed = read_checkpoint(config, &arch, &feed, steps_per_epoch)?;
        let init = config.net.init.as_deref().filter(|_| resumed.is_none());
        let pretrained = init.map(|path| read_pretrained(path, &arch)).transpose()?;
        let start = resumed.as_ref().map_or(0, |checkpoint| checkpoint.state.step);
        if start >= total_steps {
            tracing::warn!(
                "nothing is left to do: {start} of {total_steps} steps were done before; raise --epochs, or \
                 train.max_steps if it is set, to go on"
            );
            return Ok(None);
        }
        let folder = open_folder(config, start)?;
        let origin = match (resumed, pretrained) {
            (Some(checkpoint), _) => Origin::Checkpoint(Resumed::new(checkpoint, folder.path())),
            (None, Some(weights)) => Origin::Weights(weights),
            (None, None) => Origin::Nothing,
        };
        log.attach(&folder.log_path())?;
        let metrics = Metrics::new(
            &folder.metrics_path(),
            world.topology.num_replicas,
            config.run.log_steps as u64,
            Progress::new(screen, length),
        )?;
        say_what_runs(config, &world, &feed, &folder);
        Ok(Some(Self {
            config,
            origin: ForEachRank::of(origin, world.topology.num_ranks()),
            world,
            arch,
            feed,
            recipe: config.of_run_in(folder.path()).to_toml(),
            folder,
            metrics,
            stop: Stop::default(),
            length,
            start,
            evaluation: ForEachRank::default(),
            assembly: Mutex::default(),
        }))
    }

    /// One rank's whole run; its last tally.
    fn rank(&self, place: Place, handout: &Handout) -> Result<Option<Tally>> {
        let batches = handout.take(&place)?;
        let origin = self.origin.take()?;
        let value = |spec: &ParamSpec| origin.weight(spec, self.config.train.seed);
        let mut worker = run::worker(self.config, &self.arch, &self.world, place, value)?;
        let schedule = schedule(self.config, self.length);
        let (saved, notes) = (self.start, Notes::default());
        let mut at = Progressing { schedule, best_top1: None, tally: None, saved, notes };
        origin.restore(&mut worker, &mut at)?;
        drop(origin);
        for step in self.start..self.length.total_steps {
            if self.stop.begin(step) == Go::Stop {
                if at.saved != step {
                    self.save(&mut worker, &mut at, step, Mark::Regular)?;
                }
                break;
            }
            let num_queued = batches.num_queued();
            let begun = Instant::now();
            let batch =
                batches.next()?.context("the loader ended before the run: this is a defect")?;
            let wait_ms = begun.elapsed().as_secs_f64() * 1e3;
            let lr = at.schedule.rate(step);
            let done = worker.step(&batch, step, lr)?;
            at.notes.add(Noted {
                step,
                begun,
                num_images: batch.labels.len(),
                lr,
                wait_ms,
                step_ms: begun.elapsed().as_secs_f64() * 1e3,
                num_queued,
                loading: handout.stages(),
            });
            drop(batch);
            at.notes.report(&self.metrics, &worker, done)?;
            self.finish_step(&mut worker, &mut at, step + 1)?;
        }
        self.settle(&mut worker, &mut at)?;
        Ok(at.tally)
    }

    /// Makes sure that all steps so far have gone well.
    fn settle(&self, worker: &mut Worker, at: &mut Progressing) -> Result<()> {
        let done = worker.settle()?;
        at.notes.report(&self.metrics, worker, done)
    }

    /// Evaluates and saves where `num_steps` finished steps call for it.
    fn finish_step(&self, worker: &mut Worker, at: &mut Progressing, num_steps: u64) -> Result<()> {
        let last = num_steps == self.length.total_steps;
        let due = |epochs: usize| {
            let every = self.length.steps_per_epoch * epochs as u64;
            last || (every > 0 && num_steps.is_multiple_of(every))
        };
        let mut mark = Mark::Regular;
        if due(self.config.train.eval_epochs) {
            let tally = self.evaluate(worker, at, num_steps)?;
            if at.best_top1.is_none_or(|best| tally.top1() > best) {
                at.best_top1 = Some(tally.top1());
                mark = Mark::Best;
            }
        }
        let every = self.config.run.checkpoint_steps as u64;
        let also = every > 0 && num_steps.is_multiple_of(every);
        if also || mark == Mark::Best || due(self.config.run.checkpoint_epochs) {
            self.save(worker, at, num_steps, mark)?;
        }
        Ok(())
    }

    fn evaluate(&self, worker: &mut Worker, at: &mut Progressing, num_steps: u64) -> Result<Tally> {
        self.settle(worker, at)?;
        let begun = Instant::now();
        self.metrics.note("evaluating");
        let (topology, cancel) = (self.world.topology, &self.world.cancel);
        let handout = self.evaluation.take_or_make(topology.num_ranks(), || {
            Ok(Handout::new(self.feed.test(self.config, topology, Views::Centre, cancel)?))
        })?;
        let batches = handout.take(&worker.place)?;
        let tally = worker.evaluate(&batches, Views::Centre.num())?;
        // The loader's memory goes with the last rank's.
        drop((batches, handout));
        // Before the schedule hears of the tally: the rate may fall with the next step.
        let lr = at.schedule.rate(num_steps.saturating_sub(1));
        at.schedule.observe(1.0 - tally.top1());
        at.tally = Some(tally);
        if worker.place.rank == 0 {
            self.metrics.eval(EvalReport {
                num_steps,
                top1: tally.top1(),
                top5: tally.top5(),
                loss: tally.loss(),
                num_images: tally.num_images as u64,
                seconds: begun.elapsed().as_secs_f64(),
                lr,
            })?;
        }
        let loss = tally.loss();
        ensure!(loss.is_finite(), Diverged::Test { num_steps, loss });
        Ok(tally)
    }
}

fn schedule(config: &Config, length: RunLength) -> Schedule {
    let c = &config.schedule;
    let rule = match c.kind {
        ScheduleKind::Constant => Rule::Constant,
        ScheduleKind::Steps => {
            Rule::Steps { at: c.at.iter().map(|&epoch| epoch as u64).collect(), factor: c.factor }
        }
        ScheduleKind::Plateau => Rule::Plateau {
            patience: c.patience as u64,
            factor: c.factor,
            min_improvement: c.min_improvement,
            max_drops: c.max_drops as u64,
        },
        ScheduleKind::Cosine => Rule::Cosine { final_fraction: c.final_fraction },
    };
    let warmup_steps = c.warmup_epochs * length.steps_per_epoch as f64;
    Schedule::new(rule, config.train.lr, warmup_steps, length.steps_per_epoch, length.total_steps)
}

fn say_what_runs(config: &Config, world: &World, feed: &Feed, folder: &RunFolder) {
    let topology = world.topology;
    let (num_ranks, batch) = (topology.num_ranks(), config.train.batch_size);
    let devices = match world.devices[0] {
        tch::Device::Cuda(_) => format!("{num_ranks} GPU(s)"),
        _ => format!("{num_ranks} CPU device(s) of {} thread(s) each", world.threads),
    };
    tracing::info!(
        "{} on {devices}: {topology}, batch {batch} ({} per replica), {}",
        config.net.arch,
        batch.div_ceil(topology.num_replicas),
        config.train.precision
    );
    tracing::info!(
        "{} training and {} test images in {} classes; results in {}",
        feed.train.len(),
        feed.test.len(),
        feed.train.classes().len(),
        folder.path().display()
    );
}

#[cfg(test)]
mod tests;
