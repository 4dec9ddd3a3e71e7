//! One rank's work: a step, and an evaluation. **Read this first.**
//!
//! Every mode runs the same code. What differs is in the list of layers (a split network holds layers
//! that talk to the other column) and in the two collectives a rank is given, which are empty where
//! there is nobody to talk to.

use std::ops::Range;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tch::Tensor;

use crate::collective::Collective;
use crate::data::{Batch, BatchReceiver, Pixels};
use crate::launch::Place;
use crate::net::loss::{self, Tally};
use crate::net::{Mode, Net, Pass};
use crate::optim::Optimizer;
use crate::params::{Arena, ParamSpec, narrow};
use crate::random::{Key, Purpose};

/// The loss stopped being a number.
#[derive(Debug, thiserror::Error)]
#[error(
    "the loss of step {step} is {loss}; the first layer that is not finite: {layer}. Lower --lr, \
     lengthen schedule.warmup_epochs, or resume from an earlier checkpoint"
)]
pub struct Diverged {
    step: u64,
    loss: f64,
    layer: String,
}

/// The work of one rank.
pub struct Worker {
    /// Where it stands and whom it talks to.
    pub place: Place,
    /// Its part of the network.
    pub net: Net,
    /// Its part of the update.
    pub optimizer: Optimizer,
    /// Images in a step on all ranks together.
    pub global_batch: usize,
    /// The seed of the run.
    pub seed: u64,
    /// Images and labels on the device that every step takes in place of its batch's, to measure
    /// steps alone.
    pub resident: Option<(Tensor, Tensor)>,
}

/// What a step took, by phase, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Host to device.
    pub copy_ms: f64,
    /// Forward, exchanges between columns included.
    pub forward_ms: f64,
    /// Backward, the exchange of gradients included.
    pub backward_ms: f64,
    /// The update and the exchange of weights.
    pub update_ms: f64,
}

/// What one rank has to say of a step.
#[derive(Clone, Copy, Debug)]
pub struct StepDone {
    /// This replica's part of the mean loss over the global batch.
    pub loss_part: f64,
    /// What took how long.
    pub timing: Timing,
}

impl Worker {
    /// Overwrites every parameter with `values(spec)`, of the parameter's shape on this rank. All
    /// replicas do so together, with the same values: they may share the memory.
    ///
    /// # Errors
    /// If a value is missing or has another shape, or a peer has failed.
    pub fn load(&mut self, values: impl FnMut(&ParamSpec) -> Result<Tensor>) -> Result<()> {
        self.net.arena.load(values)?;
        self.place.data.flush()
    }

    /// Trains on this rank's share of the batch of `step` at learning rate `lr`.
    ///
    /// # Errors
    /// [`Diverged`], or whatever a peer or libtorch failed of.
    pub fn step(&mut self, batch: &Batch, step: u64, lr: f64) -> Result<StepDone> {
        let mut clock = Clock::start();
        let dropout = Key::new(self.seed, Purpose::Dropout).with(step);
        let (x, labels) = self.to_device(batch, batch.labels.len())?; // [share, H, W, 3], [share]
        let copy_ms = clock.lap_ms();

        let Place { data, columns, .. } = &self.place;
        let first = batch.first as u64;
        let pass = Pass { mode: Mode::Train, dropout, first, columns: &**columns };
        let logits = self.net.forward(x, &pass)?;
        let loss = loss::cross_entropy(&logits, &labels, self.global_batch)?;
        let loss_part = loss.value.double_value(&[]);
        let forward_ms = clock.lap_ms();
        if !loss_part.is_finite() {
            return Err(self.diverged(batch, step, loss_part)?.into());
        }

        let mut buckets = Buckets::new(&self.net.arena);
        self.net.backward(loss.dlogits, &pass, |arena, ready| {
            buckets.reduce_scatter(arena, &ready, &**data)
        })?;
        // Weights may be shared: nobody may write while a replica still computes with them.
        data.flush()?;
        let backward_ms = clock.lap_ms();

        for bucket in 0..self.net.arena.buckets().len() {
            self.optimizer.update(&mut self.net.arena, bucket, step, lr)?;
            all_gather_weights(&mut self.net.arena, bucket, &**data)?;
        }
        data.flush()?;
        let timing = Timing { copy_ms, forward_ms, backward_ms, update_ms: clock.lap_ms() };
        Ok(StepDone { loss_part, timing })
    }

    /// Counts this replica's share of every test batch, and adds up all replicas' counts.
    ///
    /// # Errors
    /// If loading fails, or a peer.
    pub fn evaluate(&mut self, batches: &BatchReceiver, views: usize) -> Result<Tally> {
        let mut tally = Tally::default();
        while let Some(batch) = batches.next()? {
            // Empty shares keep the ranks in step; columns see the same share.
            if batch.labels.is_empty() {
                continue;
            }
            let (x, labels) = self.to_device(&batch, batch.labels.len() * views)?;
            let p = loss::mean_probabilities(&self.logits(x)?, views)?;
            tally += count_readable(&p, &labels)?;
        }
        let mut sum = tally.to_tensor(self.place.device);
        self.place.data.all_reduce(&mut sum)?;
        Ok(Tally::from_tensor(&sum))
    }

    /// Puts a batch on the device for good: see [`Worker::resident`].
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn keep_resident(&mut self, batch: &Batch) -> Result<()> {
        self.resident = Some(self.to_device(batch, batch.labels.len())?);
        Ok(())
    }

    /// The logits of images `x`, `[N, H, W, 3]`, without dropout.
    ///
    /// # Errors
    /// If a layer or a peer fails.
    pub fn logits(&mut self, x: Tensor) -> Result<Tensor> {
        let dropout = Key::new(self.seed, Purpose::Dropout);
        let columns = &*self.place.columns;
        self.net.forward(x, &Pass { mode: Mode::Eval, dropout, first: 0, columns })
    }

    /// The batch's `num_views` images in compute precision and its labels, on this rank's device.
    fn to_device(&self, batch: &Batch, num_views: usize) -> Result<(Tensor, Tensor)> {
        if let Some((x, labels)) = &self.resident {
            return Ok((x.shallow_clone(), labels.shallow_clone()));
        }
        let (device, kind) = (self.place.device, self.net.arena.weights.kind());
        let x = images(&batch.images, num_views)?.f_to_device(device)?.f_to_kind(kind)?;
        Ok((x, Tensor::f_from_slice(&batch.labels)?.f_to_device(device)?))
    }

    /// Looks for the layer to blame. All columns of a replica see the same loss, so all do this.
    fn diverged(&mut self, batch: &Batch, step: u64, loss: f64) -> Result<Diverged> {
        let (x, _) = self.to_device(batch, batch.labels.len())?;
        let dropout = Key::new(self.seed, Purpose::Dropout).with(step);
        let columns = &*self.place.columns;
        let pass = Pass { mode: Mode::Eval, dropout, first: batch.first as u64, columns };
        let layer = match self.net.arena.first_non_finite() {
            Some(parameter) => format!("{parameter} (a parameter)"),
            None => self.net.first_non_finite(x, &pass)?.unwrap_or_else(|| "the loss".to_owned()),
        };
        Ok(Diverged { step, loss, layer })
    }
}

/// Host pixels as `[num, side, side, 3]`; the copy is the caller's.
fn images(pixels: &Pixels, num: usize) -> Result<Tensor> {
    let x = match pixels {
        Pixels::F32(floats) => Tensor::f_from_slice(floats)?,
        Pixels::Bf16(floats) => Tensor::f_from_slice(floats)?,
        Pixels::U8(_) => bail!("a rank takes normalised pixels, and these are bytes"),
    };
    let side = ((pixels.len() / (3 * num.max(1))) as f64).sqrt().round() as i64;
    x.f_view([num as i64, side, side, 3]).context("the images of a batch are not square")
}

/// Counts the images whose label is a class: unreadable test images carry none.
fn count_readable(p: &Tensor, labels: &Tensor) -> Result<Tally> {
    let readable = labels.f_ge(0)?.f_nonzero()?.f_view([-1])?;
    Tally::count(&p.f_index_select(0, &readable)?, &labels.f_index_select(0, &readable)?)
}

/// Which buckets of gradients are complete; backward fills the arena from its end.
struct Buckets {
    ranges: Vec<Range<usize>>,
}

impl Buckets {
    fn new(arena: &Arena) -> Self {
        Self { ranges: arena.buckets().to_vec() }
    }

    /// Sums over replicas each bucket that `ready`, the range just filled, completes. Each rank gets
    /// the part it updates.
    fn reduce_scatter(
        &mut self,
        arena: &mut Arena,
        ready: &Range<usize>,
        data: &dyn Collective,
    ) -> Result<()> {
        while self.ranges.last().is_some_and(|bucket| ready.start <= bucket.start) {
            let Some(bucket) = self.ranges.pop() else { break };
            if data.size() > 1 {
                let mut own = narrow(&arena.grads, &arena.own(&bucket));
                data.reduce_scatter(&narrow(&arena.grads, &bucket), &mut own)?;
            }
        }
        Ok(())
    }
}

/// Gives every replica the weights each has updated its part of.
fn all_gather_weights(arena: &mut Arena, bucket: usize, data: &dyn Collective) -> Result<()> {
    if data.size() == 1 {
        return Ok(());
    }
    let bucket = arena.buckets()[bucket].clone();
    let own = narrow(&arena.weights, &arena.own(&bucket));
    data.all_gather(&own, &mut narrow(&arena.weights, &bucket))
}

/// Times the phases of a step.
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn lap_ms(&mut self) -> f64 {
        let now = Instant::now();
        let ms = now.duration_since(self.0).as_secs_f64() * 1e3;
        self.0 = now;
        ms
    }
}
