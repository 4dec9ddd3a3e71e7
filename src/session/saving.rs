//! Between a run under way and its checkpoints: what is saved, by whom, and what a new run starts from.
//!
//! Every rank lays down the parts it speaks for, and the one that completes the network writes it. How a
//! checkpoint lies on disk is [`crate::checkpoint`]'s business.

use std::path::Path;
use std::sync::PoisonError;

use anyhow::{Result, anyhow};

use super::{Progressing, Session};
use crate::canonical::{self, Shared, Tensors};
use crate::checkpoint::{self, Checkpoint, Mark, State};
use crate::config::{Config, Resume};
use crate::diverged::Diverged;
use crate::exit::{Coded, Exit};
use crate::net::arch::Architecture;
use crate::net::build::{Plan, Site};
use crate::params::{ParamSpec, all_finite};
use crate::pretrained;
use crate::run_folder::RunFolder;
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
        let stats = self.feed.stats().cloned();
        let checkpoint = Checkpoint { state, weights, optimizer, stats };
        checkpoint::save(self.folder.path(), &checkpoint, self.config.run.keep_last, mark)?;
        Ok(())
    }
}

/// The checkpoint that the run goes on from, if any.
pub(super) fn read_checkpoint(config: &Config, arch: &Architecture) -> Result<Option<Checkpoint>> {
    let dir = config.run_dir();
    let from: Option<&Path> = match &config.run.resume {
        Resume::Off => None,
        Resume::Auto => checkpoint::resolve(&dir).is_some().then_some(&dir),
        Resume::From(path) => Some(path),
    };
    let Some(from) = from else { return Ok(None) };
    let checkpoint = checkpoint::load(from)?;
    let state = &checkpoint.state;
    if state.arch != arch.name || state.classes.len() as i64 != arch.classes() {
        let error = anyhow!(
            "the checkpoint is of {} with {} classes, and the run of {} with {}; resume with the \
             recipe it was made with, or start from its weights with --init",
            state.arch,
            state.classes.len(),
            arch.name,
            arch.classes()
        );
        return Err(Coded::new(Exit::Usage, error).into());
    }
    if config.net.init.is_some() {
        tracing::info!("net.init is not read again: the run goes on from its checkpoint");
    }
    tracing::info!("resuming after step {}", state.step);
    Ok(Some(checkpoint))
}

/// The run's folder, in which it goes on after `step` steps.
pub(super) fn open_folder(config: &Config, step: u64) -> Result<RunFolder> {
    let dir = config.run_dir();
    let goes_on = match &config.run.resume {
        Resume::Off => false,
        Resume::Auto => true,
        Resume::From(path) => lies_in(path, &dir),
    };
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

pub(super) fn read_pretrained(path: &Path, arch: &Architecture) -> Result<Shared> {
    let read = pretrained::read(path, &Plan::new(arch, Site::WHOLE)?.params)?;
    tracing::info!("{}: {}", path.display(), read.describe());
    Ok(Shared::new(read.weights))
}

/// A checkpoint that all ranks go on from.
pub(super) struct Resumed {
    state: State,
    weights: Shared,
    optimizer: Shared,
}

impl From<Checkpoint> for Resumed {
    fn from(Checkpoint { state, weights, optimizer, .. }: Checkpoint) -> Self {
        Self { state, weights: Shared::new(weights), optimizer: Shared::new(optimizer) }
    }
}

impl Resumed {
    /// Puts a rank where it was.
    pub(super) fn restore(&self, worker: &mut Worker, at: &mut Progressing) -> Result<()> {
        worker.load(|spec| self.weights.part(&spec.name, spec))?;
        let arena = &worker.net.arena;
        for (state, tensor) in worker.optimizer.state_tensors() {
            arena.load_state(tensor, |spec| {
                self.optimizer.part(&format!("{}.{state}", spec.name), spec)
            })?;
        }
        at.schedule.restore(self.state.schedule);
        at.best_top1 = self.state.best_top1;
        Ok(())
    }
}
