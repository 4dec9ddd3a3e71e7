//! Between a run under way and its checkpoints: what is saved, by whom, and what a new run starts from.
//!
//! Every rank lays down the parts it speaks for, and the one that completes the network writes it. How a
//! checkpoint lies on disk is [`crate::checkpoint`]'s business.

use std::path::Path;
use std::sync::PoisonError;

use anyhow::{Error, Result, anyhow};
use tch::Tensor;

use super::{Progressing, Session};
use crate::canonical::{self, Shared, Tensors};
use crate::checkpoint::{self, Checkpoint, Keep, Mark, State};
use crate::config::{Config, Resume};
use crate::diverged::Diverged;
use crate::exit::{Coded, Exit};
use crate::feed::Feed;
use crate::net::arch::Architecture;
use crate::net::build::{Plan, Site};
use crate::params::{ParamSpec, all_finite};
use crate::pretrained;
use crate::run;
use crate::run_folder::RunFolder;
use crate::schedule::PlateauState;
use crate::shell;
use crate::train::Worker;

/// One named tensor, or a part of it.
struct Part {
    name: String,
    spec: ParamSpec,
    value: tch::Tensor,
}

/// A checkpoint that is being put together.
#[derive(Default)]
pub(super) struct Assembly {
    parts: Vec<Part>,
    /// The ranks that have laid theirs down.
    num_ranks: usize,
}

impl Session<'_> {
    /// Brings the canonical tensors together and writes them. Every rank calls it, and nothing is written
    /// unless the last step has gone well on all of them and has left finite numbers.
    pub(super) fn save(
        &self,
        worker: &mut Worker,
        at: &mut Progressing,
        step: u64,
        mark: Mark,
    ) -> Result<()> {
        self.settle(worker, at)?;
        let (place, arena) = (&worker.place, &worker.net.arena);
        let mut parts = Vec::new();
        for (spec, value) in arena.gather_weights(&*place.data)? {
            parts.push(Part { name: spec.name.clone(), spec, value });
        }
        for (state, tensor) in worker.optimizer.state_tensors() {
            for (spec, value) in arena.gather_state(tensor, &*place.data)? {
                parts.push(Part { name: format!("{}.{state}", spec.name), spec, value });
            }
        }
        if let Some(bad) = parts.iter().find(|part| !all_finite(&part.value)) {
            return Err(Diverged::State { num_steps: step, tensor: bad.name.clone() }.into());
        }
        let keep = Keep { last: self.config.run.keep_last, previous: at.saved };
        at.saved = step;
        let mut assembly = self.assembly.lock().unwrap_or_else(PoisonError::into_inner);
        assembly.parts.extend(parts);
        assembly.num_ranks += 1;
        if assembly.num_ranks < self.world.topology.num_ranks() {
            return Ok(());
        }
        assembly.num_ranks = 0;
        let (mut weights, mut optimizer) = (Tensors::new(), Tensors::new());
        for Part { name, spec, value } in assembly.parts.drain(..) {
            let into = if name == spec.name { &mut weights } else { &mut optimizer };
            canonical::merge(into, name, &spec, &value);
        }
        let classes = self.feed.train.classes().to_vec();
        let recipe = self.recipe.clone();
        let mut state = State::new(step, self.arch.name.to_owned(), classes, recipe);
        state.class_names = self.feed.train.class_names().to_vec();
        state.schedule = at.schedule.state();
        state.best_top1 = at.best_top1;
        state.steps_per_epoch = Some(self.length.steps_per_epoch);
        let stats = self.feed.stats().cloned();
        let checkpoint = Checkpoint { state, weights, optimizer, stats };
        checkpoint::save(self.folder.path(), &checkpoint, keep, mark)?;
        Ok(())
    }
}

/// The checkpoint that the run goes on from, if any. All that the two must have in common is checked.
pub(super) fn read_checkpoint(
    config: &Config,
    arch: &Architecture,
    feed: &Feed,
    steps_per_epoch: u64,
) -> Result<Option<Checkpoint>> {
    let dir = config.run_dir();
    let from: Option<&Path> = match &config.run.resume {
        Resume::Off => None,
        Resume::Auto => checkpoint::resolve(&dir).is_some().then_some(&dir),
        Resume::From(path) => Some(path),
    };
    let Some(from) = from else { return Ok(None) };
    let checkpoint = checkpoint::load(from)?;
    let state = &checkpoint.state;
    let anew = format!(
        "start a new run from its weights, with --init {} in the place of --resume",
        shell::word(&checkpoint::weights_file(from))
    );
    if state.arch != arch.name {
        return Err(usage(anyhow!(
            "the checkpoint is of {}, and the run of {}; resume with the recipe it was made with, or {anew}",
            state.arch,
            arch.name
        )));
    }
    let advice = format!("name its own data with --data, or {anew}");
    checkpoint::check_classes(&state.classes, feed.train.classes(), &advice)?;
    if let Some(then) = state.steps_per_epoch.filter(|&then| then != steps_per_epoch) {
        return Err(usage(anyhow!(
            "an epoch had {then} steps when the checkpoint was made and has {steps_per_epoch} with this batch \
             size and these images, so that step {} would be in another place; resume with the batch size and \
             data it was made with, or {anew}",
            state.step
        )));
    }
    check_optimizer(config, arch, &checkpoint, &anew)?;
    if config.net.init.is_some() {
        tracing::info!("net.init is not read again: the run goes on from its checkpoint");
    }
    tracing::info!("resuming after step {}", state.step);
    Ok(Some(checkpoint))
}

/// Makes sure that a checkpoint has what the run's optimizer goes on from.
fn check_optimizer(
    config: &Config,
    arch: &Architecture,
    checkpoint: &Checkpoint,
    anew: &str,
) -> Result<()> {
    let plan = Plan::new(arch, Site::WHOLE)?;
    let names = run::rule(&config.train).state_names();
    let tensors = plan
        .params
        .iter()
        .flat_map(|spec| names.iter().map(move |name| format!("{}.{name}", spec.name)));
    match tensors.into_iter().find(|name| !checkpoint.optimizer.contains_key(name)) {
        None => Ok(()),
        Some(missing) => Err(usage(anyhow!(
            "the checkpoint has no {missing}, which train.optimizer {} goes on from; resume with the \
             optimizer it was made with, or {anew}",
            config.train.optimizer
        ))),
    }
}

/// What is wrong with the configuration and shows only beside the checkpoint.
fn usage(error: Error) -> Error {
    Coded::new(Exit::Usage, error).into()
}

/// The run's folder, in which it goes on after `step` steps.
pub(super) fn open_folder(config: &Config, step: u64) -> Result<RunFolder> {
    let dir = config.run_dir();
    let goes_on = match &config.run.resume {
        Resume::Off => false,
        Resume::Auto => true,
        Resume::From(path) => lies_in(path, &dir),
    };
    if goes_on && checkpoint::has_later(&dir, step) {
        tracing::warn!(
            "{} has checkpoints of steps after {step}, which go when this run saves its own; to keep them, \
             stop it and resume with another --name",
            dir.display()
        );
    }
    match goes_on {
        true => RunFolder::resume(&dir, &config.of_run_in(&dir).to_toml(), step),
        false => RunFolder::create(&dir, |path| config.of_run_in(path).to_toml()),
    }
}

/// Whether `path` is the folder `dir` or something in it, by whatever name.
fn lies_in(path: &Path, dir: &Path) -> bool {
    match (path.canonicalize(), dir.canonicalize()) {
        (Ok(path), Ok(dir)) => path.starts_with(dir),
        _ => false,
    }
}

/// The weights in a file, or in the checkpoint that `path` names.
pub(super) fn read_pretrained(path: &Path, arch: &Architecture) -> Result<Shared> {
    let path = &checkpoint::resolve(path)
        .map_or_else(|| path.to_owned(), |dir| checkpoint::weights_file(&dir));
    let params = Plan::new(arch, Site::WHOLE)?.params;
    let read = pretrained::read(path, &params).map_err(|error| Coded::new(Exit::Data, error))?;
    tracing::info!("{}: {}", path.display(), read.describe());
    Ok(Shared::new(read.weights))
}

/// What ranks begin from.
pub(super) enum Origin {
    /// Initial weights.
    Nothing,
    /// Weights of another network.
    Weights(Shared),
    /// The checkpoint of a run.
    Checkpoint(Resumed),
}

impl Origin {
    /// A rank's part of a parameter's first value.
    pub(super) fn weight(&self, spec: &ParamSpec, seed: u64) -> Result<Tensor> {
        match self {
            Self::Weights(weights) if weights.contains(&spec.name) => {
                weights.part(&spec.name, spec)
            }
            Self::Checkpoint(resumed) => resumed.weights.part(&spec.name, spec),
            Self::Nothing | Self::Weights(_) => Ok(spec.initial(seed)),
        }
    }

    /// Puts a rank that has its weights where it was.
    pub(super) fn restore(&self, worker: &mut Worker, at: &mut Progressing) -> Result<()> {
        match self {
            Self::Nothing | Self::Weights(_) => Ok(()),
            Self::Checkpoint(resumed) => resumed.restore(worker, at),
        }
    }
}

/// A checkpoint that all ranks go on from.
pub(super) struct Resumed {
    schedule: PlateauState,
    best_top1: Option<f64>,
    weights: Shared,
    optimizer: Shared,
}

impl Resumed {
    /// The checkpoint, for a run in the folder `run_dir`. The accuracy to beat is forgotten where `best` does not
    /// lead to the checkpoint that had it, in a new folder or before a step that is made again: else the run
    /// might have no best one, or one of a history that is given up.
    pub(super) fn new(checkpoint: Checkpoint, run_dir: &Path) -> Self {
        let Checkpoint { state, weights, optimizer, .. } = checkpoint;
        let best = checkpoint::best_step(run_dir).filter(|&best| best <= state.step);
        Self {
            schedule: state.schedule,
            best_top1: state.best_top1.filter(|_| best.is_some()),
            weights: Shared::new(weights),
            optimizer: Shared::new(optimizer),
        }
    }

    fn restore(&self, worker: &mut Worker, at: &mut Progressing) -> Result<()> {
        let arena = &worker.net.arena;
        for (state, tensor) in worker.optimizer.state_tensors() {
            arena.load_state(tensor, |spec| {
                self.optimizer.part(&format!("{}.{state}", spec.name), spec)
            })?;
        }
        at.schedule.restore(self.schedule);
        at.best_top1 = self.best_top1;
        Ok(())
    }
}
