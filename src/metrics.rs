//! What a run measures: one record per interval of steps and one per evaluation.
//!
//! Every replica reports each of its steps; the numbers of a step are complete with the last
//! replica's report and are added up in the order of the replicas, so that the same run writes the
//! same losses. Records are lines of JSON, in which floats are exact and one that is not finite is
//! null. How the numbers come about, and where the file lies, is not known here.

mod records;

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use serde::{Serialize, Serializer};

use crate::data::Stages;
use crate::progress::{Progress, Status};
use crate::run_folder::open_append;
use records::{EvalRecord, StepRecord};

/// The progress bar shows means over this many steps.
const NUM_RECENT: usize = 20;

/// What a step spends its time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for images.
    Wait,
    /// Bringing them to the device.
    Copy,
    /// The forward pass and the loss.
    Forward,
    /// Bringing activations, and gradients by them, from the other columns.
    Exchange,
    /// The backward pass.
    Backward,
    /// Waiting for gradients to be summed and for new weights: what computation does not hide.
    AllReduce,
    /// Updating the weights.
    Update,
}

const PHASES: [&str; 7] =
    ["wait", "copy", "forward", "exchange", "backward", "all_reduce", "update"];

/// The milliseconds of each phase.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PhaseTimes([f64; PHASES.len()]);

impl PhaseTimes {
    /// Adds to the time of a phase.
    pub fn add_ms(&mut self, phase: Phase, ms: f64) {
        self.0[phase as usize] += ms;
    }

    /// The time of a phase.
    #[must_use]
    pub fn ms(&self, phase: Phase) -> f64 {
        self.0[phase as usize]
    }

    /// The time of all phases together.
    #[must_use]
    pub fn total_ms(&self) -> f64 {
        self.0.iter().sum()
    }

    /// Adds `weight` times the times of `other`.
    fn add(&mut self, other: &Self, weight: f64) {
        self.0.iter_mut().zip(other.0).for_each(|(ms, other)| *ms += weight * other);
    }
}

impl Serialize for PhaseTimes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(PHASES.iter().zip(self.0))
    }
}

/// One replica's part of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// The index of the step, from 0 over the whole run.
    pub step: u64,
    /// Who reports, from 0.
    pub replica: usize,
    /// This replica's part of the loss; the parts of all replicas sum to the mean loss of the
    /// batch.
    pub loss_part: f64,
    /// Images in this replica's share.
    pub num_images: usize,
    /// The learning rate; the first replica's is recorded.
    pub lr: f64,
    /// Payload bytes that one rank of the replica has sent; the first replica's are recorded.
    pub wire_bytes: u64,
    /// How long the step took, waiting included.
    pub step_ms: f64,
    /// What that time was spent on.
    pub phases: PhaseTimes,
    /// Batches that waited in the replica's queue when the step began.
    pub num_queued: usize,
    /// What the loader has spent since the run began; the first replica's is recorded.
    pub loading: Stages,
}

/// The result of an evaluation over all replicas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvalReport {
    /// Finished steps.
    pub num_steps: u64,
    /// The fraction of images whose class was the most probable one.
    pub top1: f64,
    /// The fraction of images whose class was among the five most probable ones.
    pub top5: f64,
    /// The mean loss.
    pub loss: f64,
    /// Images evaluated.
    pub num_images: u64,
    /// How long it took.
    pub seconds: f64,
    /// The learning rate of the last step.
    pub lr: f64,
}

/// Collects the reports of all replicas, writes the records and shows the progress.
#[derive(Debug)]
pub struct Metrics {
    num_replicas: usize,
    log_steps: u64,
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// None once a write has failed.
    file: Option<File>,
    progress: Progress,
    /// Steps that some replicas have reported, the oldest first. Replicas exchange gradients in
    /// each step, so these are few.
    pending: VecDeque<Pending>,
    /// Reports of finished steps, to be filled again.
    spare: Vec<Vec<Option<StepReport>>>,
    recent: VecDeque<Sums>,
    interval: Sums,
    /// What the loader had spent by the last record.
    recorded_loading: Stages,
}

/// The reports on a step so far, by replica.
#[derive(Debug)]
struct Pending {
    step: u64,
    reports: Vec<Option<StepReport>>,
}

impl Metrics {
    /// Appends records to the file at `path`: one per `log_steps` steps, and one per evaluation.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn new(
        path: &Path,
        num_replicas: usize,
        log_steps: u64,
        progress: Progress,
    ) -> Result<Self> {
        let state = State {
            file: Some(open_append(path)?),
            progress,
            pending: VecDeque::new(),
            spare: Vec::new(),
            recent: VecDeque::with_capacity(NUM_RECENT),
            interval: Sums::default(),
            recorded_loading: Stages::default(),
        };
        let (path, state) = (path.to_path_buf(), Mutex::new(state));
        Ok(Self { num_replicas, log_steps: log_steps.max(1), path, state })
    }

    /// Takes a replica's report of a step.
    ///
    /// # Errors
    /// If a record cannot be written; further calls then succeed without writing.
    pub fn step(&self, report: StepReport) -> Result<()> {
        let mut state = self.lock();
        let Some(step) = state.complete(report, self.num_replicas)? else { return Ok(()) };
        state.interval.add(&step);
        if state.recent.len() == NUM_RECENT {
            state.recent.pop_front();
        }
        state.recent.push_back(step);
        let recent = Sums::of(&state.recent);
        state.progress.step(&recent.status());
        let num_steps = step.last_step + 1;
        let is_last = num_steps == state.progress.length().total_steps;
        if num_steps.is_multiple_of(self.log_steps) || is_last {
            self.record_interval(&mut state)?;
        }
        Ok(())
    }

    /// Takes the result of an evaluation.
    ///
    /// # Errors
    /// If the record cannot be written; further calls then succeed without writing.
    pub fn eval(&self, report: EvalReport) -> Result<()> {
        let mut state = self.lock();
        state.progress.result(report.num_steps, &report.summary());
        let epoch = state.progress.length().epoch(report.num_steps);
        let record = EvalRecord {
            kind: "eval",
            step: report.num_steps,
            epoch,
            top1: report.top1,
            top5: report.top5,
            loss: report.loss,
            num_images: report.num_images,
            seconds: report.seconds,
            lr: report.lr,
        };
        self.write(&mut state, &record)
    }

    /// Says on the terminal what happens in place of steps, such as `evaluating`.
    pub fn note(&self, doing: &str) {
        self.lock().progress.note(doing);
    }

    /// Records the steps since the last record, if any: for a run that stops early.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn finish(&self) -> Result<()> {
        let mut state = self.lock();
        if state.interval.num_steps == 0 { Ok(()) } else { self.record_interval(&mut state) }
    }

    fn record_interval(&self, state: &mut State) -> Result<()> {
        let interval = std::mem::take(&mut state.interval);
        let status = interval.status();
        state.progress.line(&status);
        let loading =
            interval.loading - std::mem::replace(&mut state.recorded_loading, interval.loading);
        let record = StepRecord {
            kind: "step",
            step: status.num_steps,
            epoch: state.progress.length().epoch(status.num_steps),
            loss: status.loss,
            lr: status.lr,
            img_per_s: status.img_per_s,
            wait_share: status.wait_share,
            queued: interval.num_queued / interval.num_steps.max(1) as f64,
            wire_bytes: interval.wire_bytes / interval.num_steps.max(1),
            ms: interval.mean_phases(),
            loader_us: loading.us_per_image(),
        };
        self.write(state, &record)
    }

    /// Writes a line in one piece, so that a reader never sees half of one.
    fn write(&self, state: &mut State, record: &impl Serialize) -> Result<()> {
        let Some(file) = &mut state.file else { return Ok(()) };
        let mut line = serde_json::to_vec(record).context("a record has no JSON form")?;
        line.push(b'\n');
        if let Err(error) = file.write_all(&line) {
            state.file = None;
            let path = self.path.display();
            return Err(error).with_context(|| {
                format!("cannot write measurements to {path}; free some space and --resume auto")
            });
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Adds a report; the sums of its step if that was the last one missing.
    fn complete(&mut self, report: StepReport, num_replicas: usize) -> Result<Option<Sums>> {
        let StepReport { step, replica, .. } = report;
        let index = self.pending.iter().position(|pending| pending.step == step);
        let index = index.unwrap_or_else(|| {
            let reports = self.spare.pop().unwrap_or_else(|| vec![None; num_replicas]);
            self.pending.push_back(Pending { step, reports });
            self.pending.len() - 1
        });
        let reports = &mut self.pending[index].reports;
        ensure!(
            reports.get(replica).is_some_and(Option::is_none),
            "replica {replica} of {num_replicas} reported step {step} out of turn: this is a defect"
        );
        reports[replica] = Some(report);
        if reports.iter().any(Option::is_none) {
            return Ok(None);
        }
        let sums = Sums::of_step(reports.iter().flatten());
        reports.fill(None);
        self.spare.extend(self.pending.remove(index).map(|done| done.reports));
        Ok(Some(sums))
    }
}

/// Sums over steps; times are means over replicas.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    last_step: u64,
    num_steps: u64,
    loss: f64,
    num_images: usize,
    lr: f64,
    wire_bytes: u64,
    step_ms: f64,
    phases: PhaseTimes,
    num_queued: f64,
    loading: Stages,
}

impl Sums {
    /// One step, from its reports in the order of the replicas.
    fn of_step<'a>(reports: impl Iterator<Item = &'a StepReport> + Clone) -> Self {
        let mut sums = Self { num_steps: 1, ..Self::default() };
        let each = 1.0 / reports.clone().count() as f64;
        for report in reports {
            if report.replica == 0 {
                (sums.last_step, sums.lr) = (report.step, report.lr);
                sums.loading = report.loading;
                sums.wire_bytes = report.wire_bytes;
            }
            sums.loss += report.loss_part;
            sums.num_images += report.num_images;
            sums.step_ms += each * report.step_ms;
            sums.phases.add(&report.phases, each);
            sums.num_queued += each * report.num_queued as f64;
        }
        sums
    }

    fn of(steps: &VecDeque<Self>) -> Self {
        let mut sums = Self::default();
        steps.iter().for_each(|step| sums.add(step));
        sums
    }

    /// Adds later steps.
    fn add(&mut self, later: &Self) {
        self.last_step = later.last_step;
        self.num_steps += later.num_steps;
        self.loss += later.loss;
        self.num_images += later.num_images;
        self.lr = later.lr;
        self.wire_bytes += later.wire_bytes;
        self.step_ms += later.step_ms;
        self.phases.add(&later.phases, 1.0);
        self.num_queued += later.num_queued;
        self.loading = later.loading;
    }

    fn status(&self) -> Status {
        let num_steps = self.num_steps.max(1) as f64;
        let total_ms = self.step_ms.max(f64::MIN_POSITIVE);
        Status {
            num_steps: self.last_step + 1,
            loss: self.loss / num_steps,
            lr: self.lr,
            img_per_s: self.num_images as f64 / total_ms * 1000.0,
            wait_share: self.phases.ms(Phase::Wait) / total_ms,
            step_ms: self.step_ms / num_steps,
        }
    }

    fn mean_phases(&self) -> PhaseTimes {
        let mut mean = PhaseTimes::default();
        mean.add(&self.phases, 1.0 / self.num_steps.max(1) as f64);
        mean
    }
}

impl EvalReport {
    fn summary(&self) -> String {
        format!(
            "top-1 {:.2} %  top-5 {:.2} %  loss {:.3}  ({} images in {:.1} s)",
            100.0 * self.top1,
            100.0 * self.top5,
            self.loss,
            self.num_images,
            self.seconds
        )
    }
}

#[cfg(test)]
mod tests;
