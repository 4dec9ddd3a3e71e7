//! The thread that makes batches and the queues that carry them.
//!
//! One producer thread owns a pool of workers and, per share, a ring of slots. It takes a free
//! slot, has the pool fill it, and sends it to every consumer of the share. Every queue is bounded
//! and every wait can be broken by [`Cancel`]. What a batch contains is up to the [`Filler`]; the
//! loader knows only positions within a batch.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::bad::BadImages;
use super::error::DataError;
use super::finish::Canvas;
use super::memory::Shape;
use super::normalisation::Normalisation;
use super::pixels::{Form, Pixels, with_elements};
use super::slot::{Batch, EXCLUDED, Pinning, Ring, Slot};
use super::stages::{StageTotals, Stages};
use super::worker::Worker;
use crate::cancel::Cancel;
use crate::panics;

/// To whom batches go, and with what means.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// For each replica, the positions within the global batch that it takes.
    pub shares: Vec<Range<usize>>,
    /// How many consumers get each share (the columns of a split network); all get the same memory.
    pub consumers_per_share: usize,
    /// Threads that read and decode.
    pub workers: usize,
    /// Finished batches that may wait for a consumer. A share has `depth + 3` slots: one is filled, and a
    /// consumer may keep two while it asks for the next.
    pub depth: usize,
    /// What is delivered of the images.
    pub form: Form,
    /// Prepares the memory of batches for a device's copies.
    pub pinning: Option<Arc<dyn Pinning>>,
    /// Breaks every wait.
    pub cancel: Cancel,
}

/// A running loader. It ends by itself after its last batch, on cancellation, and when all its
/// receivers are dropped.
pub struct Loader {
    /// `[share][consumer]`: the ends to hand to the consumers.
    pub receivers: Vec<Vec<BatchReceiver>>,
    bad: Arc<BadImages>,
    stages: Arc<StageTotals>,
    thread: JoinHandle<()>,
    /// Where slots come home to when the thread has ended: memory is not given back, nor pages unlocked,
    /// which may wait for GPUs, while there may be consumers at work.
    _homes: Vec<Receiver<Slot>>,
}

impl Loader {
    /// The images that could not be read so far.
    #[must_use]
    pub fn bad(&self) -> &BadImages {
        &self.bad
    }

    /// Where the workers' time went so far.
    #[must_use]
    pub fn stages(&self) -> Stages {
        self.stages.get()
    }

    /// Drops the receivers still here and waits for the loader's threads to end.
    pub fn join(self) {
        drop(self.receivers);
        // A panic in the thread has been caught and given to the consumers.
        let _ = self.thread.join();
    }
}

/// One consumer's end of the queue.
#[derive(Debug)]
pub struct BatchReceiver {
    queue: Receiver<Arc<Batch>>,
    outcome: Arc<OnceLock<DataError>>,
    cancel: Cancel,
}

impl BatchReceiver {
    /// Finished batches that wait in the queue; at most the loader's depth.
    #[must_use]
    pub fn num_queued(&self) -> usize {
        self.queue.len()
    }

    /// Waits for the next batch; `None` after the last.
    ///
    /// # Errors
    /// [`DataError::Cancelled`] if the wait was broken, else what made the loader fail, after the
    /// batches finished before it.
    pub fn next(&self) -> Result<Option<Arc<Batch>>, DataError> {
        select! {
            recv(self.queue) -> batch => match (batch, self.outcome.get()) {
                (Ok(batch), _) => Ok(Some(batch)),
                (Err(_), Some(error)) => Err(error.clone()),
                (Err(_), None) => Ok(None),
            },
            recv(self.cancel.channel()) -> _ => Err(DataError::Cancelled),
        }
    }
}

/// One batch to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) step: u64,
    pub(super) epoch: u64,
    /// Images in the global batch.
    pub(super) num_images: usize,
}

/// What batches are made of.
pub(super) trait Filler: Send + Sync + 'static {
    /// What an image takes.
    fn shape(&self) -> Shape;
    /// What pixels are normalised by.
    fn normalisation(&self) -> &Normalisation;
    /// Moves on to the next batch; `None` after the last.
    fn advance(&mut self) -> Option<Plan>;
    /// Draws the image at `position` of the global batch; returns its label and index in the
    /// source, or `None` to leave the position out.
    fn fill(
        &self,
        worker: &mut Worker,
        position: usize,
        out: &mut impl Canvas,
    ) -> Result<Option<(i64, u32)>, DataError>;
    /// The tally that is checked after every batch.
    fn bad(&self) -> &Arc<BadImages>;
}

/// Starts the producer of `filler`'s batches of at most `batch` images.
///
/// # Panics
/// If a share reaches beyond the batch, or there is no consumer or worker.
pub(super) fn spawn(
    filler: impl Filler,
    batch: usize,
    delivery: Delivery,
) -> Result<Loader, DataError> {
    let Delivery { shares, consumers_per_share, workers, depth, form, pinning, cancel } = delivery;
    assert!(shares.iter().all(|share| share.end <= batch), "shares {shares:?} of batch {batch}");
    assert!(consumers_per_share > 0 && workers > 0, "a loader has consumers and workers");
    let outcome = Arc::new(OnceLock::new());
    let mut receivers = Vec::new();
    let mut lanes = Vec::new();
    let mut homes = Vec::new();
    for share in shares {
        let slot = || Slot::new(form, filler.normalisation(), share.len(), filler.shape());
        let slots = (0..depth + 3).map(|_| Ok(slot()?.pinned(pinning.as_deref())));
        let ring = Ring::new(slots.collect::<Result<Vec<_>, DataError>>()?.into_iter());
        let (queues, ends): (Vec<_>, Vec<_>) =
            (0..consumers_per_share).map(|_| bounded(depth)).unzip();
        homes.push(ring.free().clone());
        lanes.push(Lane { share, ring, queues });
        let receiver =
            |queue| BatchReceiver { queue, outcome: Arc::clone(&outcome), cancel: cancel.clone() };
        receivers.push(ends.into_iter().map(receiver).collect());
    }
    let bad = Arc::clone(filler.bad());
    let stages = Arc::new(StageTotals::default());
    let producer = Producer {
        filler,
        lanes,
        pool: pool(workers)?,
        workers: (0..workers).map(|_| Mutex::default()).collect(),
        stages: Arc::clone(&stages),
        cancel,
    };
    let thread = std::thread::Builder::new()
        .name("loader".into())
        .spawn(move || producer.run_to_end(&outcome))
        .map_err(thread_error)?;
    Ok(Loader { receivers, bad, stages, thread, _homes: homes })
}

/// A pool of `workers` threads, to read and decode images on.
///
/// # Errors
/// [`DataError::Io`] if the system has no more threads.
pub fn pool(workers: usize) -> Result<ThreadPool, DataError> {
    ThreadPoolBuilder::new()
        .num_threads(workers)
        .thread_name(|index| format!("decode-{index}"))
        .build()
        .map_err(|error| thread_error(std::io::Error::other(error)))
}

fn thread_error(error: std::io::Error) -> DataError {
    DataError::io("start", std::path::Path::new("the threads that decode"))(error)
}

/// One share: its memory and its consumers.
struct Lane {
    share: Range<usize>,
    ring: Ring,
    queues: Vec<Sender<Arc<Batch>>>,
}

struct Producer<F> {
    filler: F,
    lanes: Vec<Lane>,
    pool: ThreadPool,
    /// One per thread of the pool, by thread index; never contended.
    workers: Vec<Mutex<Worker>>,
    stages: Arc<StageTotals>,
    cancel: Cancel,
}

/// Whether to go on after a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Continue,
    Stop,
}

impl<F: Filler> Producer<F> {
    /// Runs, and leaves the reason of a failure where consumers look once their queue is empty.
    fn run_to_end(mut self, outcome: &OnceLock<DataError>) {
        let result = catch_unwind(AssertUnwindSafe(|| self.run()));
        let error = match result {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(panic) => Some(DataError::Panicked { message: panics::message(&*panic).into() }),
        };
        if let Some(error) = error {
            let _ = outcome.set(error); // the only write
        }
        // Dropping `self` now closes the queues: consumers drain them and then read the outcome.
    }

    fn run(&mut self) -> Result<(), DataError> {
        let mut slots = Vec::with_capacity(self.lanes.len());
        while let Some(plan) = self.filler.advance() {
            self.take_slots(plan, &mut slots)?;
            let filled = self.fill(&mut slots);
            // Too many bad images explain a missing substitute, not the other way round.
            self.filler.bad().check()?;
            filled?;
            if self.send(plan, &mut slots)? == Next::Stop {
                break;
            }
        }
        Ok(())
    }

    /// Waits for one free slot per share, sized for this batch.
    fn take_slots(&self, plan: Plan, slots: &mut Vec<Slot>) -> Result<(), DataError> {
        for lane in &self.lanes {
            let mut slot = select! {
                recv(self.cancel.channel()) -> _ => return Err(DataError::Cancelled),
                recv(lane.ring.free()) -> slot => slot.map_err(|_| DataError::Cancelled)?,
            };
            let share = lane.share.start.min(plan.num_images)..lane.share.end.min(plan.num_images);
            slot.resize(share.len(), self.filler.shape());
            slots.push(slot);
        }
        Ok(())
    }

    /// Fills all slots, image by image, on all workers.
    fn fill(&self, slots: &mut [Slot]) -> Result<(), DataError> {
        let shape = self.filler.shape();
        self.pool.install(|| {
            slots.par_iter_mut().zip(&self.lanes).try_for_each(|(slot, lane)| {
                let Slot { images, unfinished, labels, samples, .. } = slot;
                let first = lane.share.start;
                if let (Pixels::U8(bytes), Some(rest)) = (&mut *images, unfinished) {
                    let canvases = rest.canvases(bytes, shape);
                    return self.fill_share(first, canvases, labels, samples);
                }
                let per_image = shape.num_views * shape.num_values;
                with_elements!(images, images => {
                    let canvases = images.par_chunks_exact_mut(per_image);
                    self.fill_share(first, canvases, labels, samples)
                })
            })
        })?;
        slots.iter_mut().for_each(|slot| slot.compact(shape));
        Ok(())
    }

    /// Fills the share that starts at position `first`.
    fn fill_share<C: Canvas + Send>(
        &self,
        first: usize,
        images: impl IndexedParallelIterator<Item = C>,
        labels: &mut [i64],
        samples: &mut [u32],
    ) -> Result<(), DataError> {
        let entries = labels.par_iter_mut().zip(samples);
        // One image at a time: they take unlike times, and a batch is done when its last is.
        let positions = images.zip(entries).enumerate().with_max_len(1);
        positions.try_for_each(|(i, (mut image, (label, sample)))| {
            let index = rayon::current_thread_index().unwrap_or(0);
            let mut worker = self.workers[index].lock().unwrap_or_else(PoisonError::into_inner);
            let filled = self.filler.fill(&mut worker, first + i, &mut image)?;
            self.stages.add(worker.take_stages());
            (*label, *sample) = filled.unwrap_or((EXCLUDED, 0));
            Ok(())
        })
    }

    /// Sends each share to its consumers; stops when no consumer is left.
    fn send(&self, plan: Plan, slots: &mut Vec<Slot>) -> Result<Next, DataError> {
        let mut next = Next::Stop;
        for (lane, slot) in self.lanes.iter().zip(slots.drain(..)) {
            let batch = Arc::new(lane.ring.batch(slot, plan.step, plan.epoch, lane.share.start));
            for queue in &lane.queues {
                select! {
                    recv(self.cancel.channel()) -> _ => return Err(DataError::Cancelled),
                    send(queue, Arc::clone(&batch)) -> sent => if sent.is_ok() {
                        next = Next::Continue;
                    },
                }
            }
        }
        Ok(next)
    }
}
