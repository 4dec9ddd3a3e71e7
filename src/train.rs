//! One rank's work: a step, and an evaluation. **Read this first.**
//!
//! Every mode runs the same code. What differs is in the list of layers (a split network holds layers
//! that talk to the other column), in the two collectives a rank is given, which are empty where there is
//! nobody to talk to, and in the images it holds: layers that are sliced need those of all ranks.

mod report;

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use tch::Tensor;

use crate::collective::{Collective, Reduction, Wire};
use crate::data::{Batch, BatchReceiver};
use crate::diverged::Diverged;
use crate::intake::Intake;
use crate::launch::Place;
use crate::metrics::Phase;
use crate::net::loss::{self, Tally};
use crate::net::{Done, Mode, Net, Pass, Reach};
use crate::optim::Optimizer;
use crate::params::{Arena, Bucket, narrow};
use crate::random::{Key, Purpose};
use crate::stopwatch::Stopwatch;
use report::{Asked, LossPart};

pub use report::{Reporting, Reports, StepDone};

/// The work of one rank.
pub struct Worker {
    /// Where it stands and whom it talks to.
    pub place: Place,
    /// Its part of the network.
    pub net: Net,
    /// Its part of the update.
    pub optimizer: Optimizer,
    /// How batches come to it.
    pub intake: Intake,
    /// Images in a step on all ranks together.
    pub global_batch: usize,
    /// The images of each rank, where a rank's layers need those of all (hybrid mode); else none.
    pub shares: Vec<usize>,
    /// How gradients travel.
    pub wire: Wire,
    /// The seed of the run.
    pub seed: u64,
    /// Times its steps.
    pub stopwatch: Stopwatch,
    /// What is to be said of them.
    pub reports: Reports,
}

impl Worker {
    /// Trains on this rank's share of the batch of `step` at learning rate `lr`. Returns the report on
    /// this step or, with [`Reporting::StepLate`], on the one before, if it is not yet out.
    ///
    /// # Errors
    /// [`Diverged`], or whatever a peer or libtorch failed of.
    pub fn step(&mut self, batch: &Arc<Batch>, step: u64, lr: f64) -> Result<Option<StepDone>> {
        let sent_before = self.place.sent_bytes();
        self.place.at_step(step);
        self.stopwatch.start()?;
        let dropout = Key::new(self.seed, Purpose::Dropout).with(step);
        let (x, labels) = self.intake.take(batch)?; // [share, H, W, 3], [share]
        self.stopwatch.lap(Phase::Copy)?;

        let Place { data, columns, .. } = &self.place;
        let (first, shares) = (batch.first as u64, &self.shares[..]);
        let pass = Pass { mode: Mode::Train, dropout, first, columns: &**columns, shares };
        let logits = self.net.forward(x, &pass, |reach| match reach {
            Reach::Local => self.stopwatch.lap(Phase::Forward),
            Reach::Peers => self.stopwatch.lap(Phase::Exchange),
        })?;
        let loss = loss::cross_entropy(&logits, &labels, self.global_batch)?;
        let loss_part = LossPart::of(&loss.value, self.reports.when())?;
        self.stopwatch.lap(Phase::Forward)?;
        if let Some(bad) = loss_part.bad() {
            return Err(self.diverged(Some(batch), step, bad)?.into());
        }

        let mut buckets = Buckets::new(&self.net.arena, self.wire);
        self.net.backward(loss.dlogits, &pass, |arena, done| match done {
            Done::Layers(Reach::Local) => self.stopwatch.lap(Phase::Backward),
            Done::Layers(Reach::Peers) => self.stopwatch.lap(Phase::Exchange),
            Done::Gradients(ready) => {
                self.stopwatch.lap(Phase::Backward)?;
                buckets.reduce_scatter(arena, &ready, &**data)?;
                self.stopwatch.lap(Phase::AllReduce)
            }
        })?;
        self.stopwatch.lap(Phase::Backward)?;
        // Weights may be shared: nobody may write while a replica still computes with them.
        data.flush()?;
        buckets.finish()?;
        self.stopwatch.lap(Phase::AllReduce)?;

        for bucket in 0..self.net.arena.buckets().len() {
            self.optimizer.update(&mut self.net.arena, bucket, step, lr)?;
            self.stopwatch.lap(Phase::Update)?;
            all_gather_weights(&mut self.net.arena, bucket, &**data)?;
            self.stopwatch.lap(Phase::AllReduce)?;
        }
        data.flush()?;
        self.stopwatch.lap(Phase::AllReduce)?;
        let wire_bytes = self.place.sent_bytes() - sent_before;
        let asked = Asked { step, loss_part, wire_bytes, times: self.stopwatch.finish() };
        self.reports.next(asked).map(|due| self.report(due)).transpose()
    }

    /// The report on the last step, if it is not yet out. To be called before anything relies on it,
    /// such as a checkpoint.
    ///
    /// # Errors
    /// [`Diverged`], or if the GPU is lost.
    pub fn settle(&mut self) -> Result<Option<StepDone>> {
        self.reports.rest().map(|due| self.report(due)).transpose()
    }

    fn report(&mut self, asked: Asked) -> Result<StepDone> {
        let Asked { step, loss_part, wire_bytes, times } = asked;
        // Waits until the step is done, and with it the loss on the host.
        let phases = self.stopwatch.read(times)?;
        let loss_part = loss_part.read()?;
        if !loss_part.is_finite() {
            return Err(self.diverged(None, step, loss_part)?.into());
        }
        Ok(StepDone { step, loss_part, wire_bytes, phases })
    }

    /// Counts this replica's share of every test batch, and adds up all replicas' counts.
    ///
    /// # Errors
    /// If loading fails, or a peer.
    pub fn evaluate(&mut self, batches: &BatchReceiver, views: usize) -> Result<Tally> {
        let mut tally = Tally::default();
        while let Some(batch) = batches.next()? {
            // Empty shares keep the ranks in step; columns see the same share.
            if batch.labels.is_empty() && self.shares.is_empty() {
                continue;
            }
            let (x, labels) = self.intake.take(&batch)?;
            let (x, labels) = self.whole_share(x, labels, views)?;
            let p = loss::mean_probabilities(&self.logits(x, views)?, views)?;
            tally += count_readable(&p, &labels)?;
        }
        self.intake.release()?;
        let mut sum = tally.to_tensor(self.place.device);
        self.place.data.all_reduce(&mut sum)?;
        Ok(Tally::from_tensor(&sum))
    }

    /// The logits of `x`, `[images * views, H, W, 3]`, without dropout.
    ///
    /// # Errors
    /// If a layer or a peer fails.
    pub fn logits(&mut self, x: Tensor, views: usize) -> Result<Tensor> {
        let dropout = Key::new(self.seed, Purpose::Dropout);
        let columns = &*self.place.columns;
        let shares: Vec<_> = self.shares.iter().map(|share| views * share).collect();
        let pass = Pass { mode: Mode::Eval, dropout, first: 0, columns, shares: &shares };
        self.net.forward(x, &pass, |_| Ok(()))
    }

    /// Where a rank's layers need the images of all, every rank has to bring as many as the others
    /// expect: blank images without a label stand for those that a short batch lacks.
    fn whole_share(&self, x: Tensor, labels: Tensor, views: usize) -> Result<(Tensor, Tensor)> {
        let share = self.shares.get(self.place.replica).copied().unwrap_or_default();
        let missing = share.saturating_sub(labels.numel()) as i64;
        if missing == 0 {
            return Ok((x, labels));
        }
        let blank = [0, 0, 0, 0, 0, 0, 0, missing * views as i64];
        Ok((x.f_constant_pad_nd(blank)?, labels.f_pad([0, missing], "constant", NO_LABEL)?))
    }

    /// Looks for the layer to blame, with the batch of the step unless it is gone: then its update has been
    /// made too, and has spread what is not finite through the weights.
    fn diverged(&mut self, batch: Option<&Arc<Batch>>, step: u64, loss: f64) -> Result<Diverged> {
        let layer = match (self.net.arena.first_non_finite(), batch) {
            (_, None) => {
                "unknown after the update (on a GPU losses are read a step late)".to_owned()
            }
            (Some(parameter), Some(_)) => format!("{parameter} (a parameter)"),
            (None, Some(batch)) => self.first_non_finite(batch, step)?,
        };
        Ok(Diverged::Step { step, loss, layer })
    }

    /// All columns of a replica see the same loss, so all look together; slices see losses of different
    /// images, so each looks alone.
    fn first_non_finite(&mut self, batch: &Arc<Batch>, step: u64) -> Result<String> {
        let (x, _) = self.intake.take(batch)?;
        let dropout = Key::new(self.seed, Purpose::Dropout).with(step);
        let (columns, shares) = (&*self.place.columns, &self.shares[..]);
        let first = batch.first as u64;
        let pass = Pass { mode: Mode::Eval, dropout, first, columns, shares };
        let reach = if shares.is_empty() { Reach::Peers } else { Reach::Local };
        let layer = self.net.first_non_finite(x, &pass, reach)?;
        Ok(layer.unwrap_or_else(|| "the loss".to_owned()))
    }
}

/// The label of what is not to be counted.
const NO_LABEL: f64 = -1.0;

/// Counts the images whose label is a class: those that stand for what a short share lacks carry none.
fn count_readable(p: &Tensor, labels: &Tensor) -> Result<Tally> {
    let readable = labels.f_ge(0)?.f_nonzero()?.f_view([-1])?;
    Tally::count(&p.f_index_select(0, &readable)?, &labels.f_index_select(0, &readable)?)
}

/// Which buckets of gradients are complete; backward fills the arena from its end.
struct Buckets {
    rest: Vec<Bucket>,
    wire: Wire,
    under_way: Vec<Reduction>,
}

impl Buckets {
    fn new(arena: &Arena, wire: Wire) -> Self {
        Self { rest: arena.buckets().to_vec(), wire, under_way: Vec::new() }
    }

    /// Sums over its holders each bucket that `ready`, the range just filled, completes. Each rank
    /// gets the part it updates.
    fn reduce_scatter(
        &mut self,
        arena: &mut Arena,
        ready: &Range<usize>,
        data: &dyn Collective,
    ) -> Result<()> {
        while self.rest.last().is_some_and(|bucket| ready.start <= bucket.range.start) {
            let Some(bucket) = self.rest.pop() else { break };
            if bucket.num_holders > 1 {
                let (all, mut own) =
                    (narrow(&arena.grads, &bucket.range), narrow(&arena.grads, &bucket.own()));
                self.under_way.push(self.wire.begin_reduce_scatter(data, &all, &mut own)?);
            }
        }
        Ok(())
    }

    /// Completes the sums, once everything has arrived.
    fn finish(self) -> Result<()> {
        self.under_way.into_iter().try_for_each(Reduction::finish)
    }
}

/// Gives every holder of a bucket the weights each has updated its part of. They travel as they are
/// computed with: replicas have to hold the same bits.
fn all_gather_weights(arena: &mut Arena, bucket: usize, data: &dyn Collective) -> Result<()> {
    let bucket = &arena.buckets()[bucket];
    if bucket.num_holders == 1 {
        return Ok(());
    }
    let own = narrow(&arena.weights, &bucket.own());
    data.begin_all_gather(&own, &mut narrow(&arena.weights, &bucket.range))
}
