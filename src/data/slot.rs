//! Batches in reused memory: a ring of slots that are allocated once and come home when dropped.
//!
//! A slot knows its memory and where its home is; it knows nothing of threads or images.

use std::any::Any;
use std::fmt::Debug;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::DataError;
use super::memory::{Shape, zeros};
use super::normalisation::Normalisation;
use super::pixels::{Form, Pixels, with_elements};
use super::unfinished::Unfinished;

/// Prepares memory for a device to copy from while the processor does something else.
pub trait Pinning: Debug + Send + Sync {
    /// Pins `num_bytes` bytes at `address`, which stay there until the result is dropped.
    fn pin(&self, address: usize, num_bytes: usize) -> Box<dyn Any + Send + Sync>;
}

/// One share of one batch. Its memory returns to the loader when the last `Arc` to it is dropped.
#[derive(Debug)]
pub struct Batch {
    /// The global step (training) or the index of the batch (evaluation), from 0.
    pub step: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// The position of the share's first image within the global batch.
    pub first: usize,
    /// `[n, crop, crop, 3]` in training, `[n * views, crop, crop, 3]` in evaluation.
    pub images: Pixels,
    /// What is left to do to them, if anything.
    pub unfinished: Option<Unfinished>,
    /// `[n]`, each below the number of classes.
    pub labels: Vec<i64>,
    /// `[n]`: the index in the source of the image shown.
    pub samples: Vec<u32>,
    pins: Pins,
    home: Sender<Slot>,
}

/// What keeps a slot's memory pinned.
type Pins = Vec<Box<dyn Any + Send + Sync>>;

impl Batch {
    /// A batch that belongs to no ring: `images`, `[n, side, side, 3]`, with their `labels`, `[n]`,
    /// from position `first` of the global batch.
    #[must_use]
    pub fn standalone(first: usize, images: Pixels, labels: Vec<i64>) -> Self {
        let samples = (first..first + labels.len()).map(|i| i as u32).collect();
        let (pins, home) = (Pins::new(), bounded(0).0);
        Self { step: 0, epoch: 0, first, images, unfinished: None, labels, samples, pins, home }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let slot = Slot {
            pins: std::mem::take(&mut self.pins),
            images: std::mem::take(&mut self.images),
            unfinished: self.unfinished.take(),
            labels: std::mem::take(&mut self.labels),
            samples: std::mem::take(&mut self.samples),
        };
        // The ring has room for all its slots; it is closed only when the loader is gone.
        let _ = self.home.try_send(slot);
    }
}

/// The memory of a [`Batch`].
#[derive(Debug)]
pub(super) struct Slot {
    /// Dropped first: memory is given back once it is not pinned any more.
    pins: Pins,
    pub(super) images: Pixels,
    pub(super) unfinished: Option<Unfinished>,
    pub(super) labels: Vec<i64>,
    pub(super) samples: Vec<u32>,
}

impl Slot {
    /// Memory for `num_images` images.
    ///
    /// # Errors
    /// [`DataError::NoMemory`].
    pub(super) fn new(
        form: Form,
        normalisation: &Normalisation,
        num_images: usize,
        shape: Shape,
    ) -> Result<Self, DataError> {
        let num_views = num_images.saturating_mul(shape.num_views);
        Ok(Self {
            pins: Pins::new(),
            images: Pixels::new(form.output(), num_views.saturating_mul(shape.num_values))?,
            unfinished: (form == Form::Unfinished)
                .then(|| Unfinished::new(normalisation, num_views))
                .transpose()?,
            labels: zeros(num_images)?,
            samples: zeros(num_images)?,
        })
    }

    /// Has all that devices copy pinned, where it is for its whole life: vectors shrink and grow
    /// within what they have.
    pub(super) fn pinned(mut self, by: Option<&dyn Pinning>) -> Self {
        let Some(by) = by else { return self };
        self.pins.push(with_elements!(&self.images, images => pin(by, images)));
        if let Some(Unfinished { windows, offsets, .. }) = &self.unfinished {
            self.pins.extend([pin(by, windows), pin(by, offsets)]);
        }
        self.pins.push(pin(by, &self.labels));
        self
    }

    /// Makes room for `num_images`, within the memory allocated at the start.
    pub(super) fn resize(&mut self, num_images: usize, shape: Shape) {
        let num_views = num_images * shape.num_views;
        self.images.resize(num_views * shape.num_values);
        if let Some(unfinished) = &mut self.unfinished {
            unfinished.resize(num_views);
        }
        self.labels.resize(num_images, 0);
        self.samples.resize(num_images, 0);
    }

    /// Closes the gaps left by images whose label is [`EXCLUDED`], keeping the order.
    pub(super) fn compact(&mut self, shape: Shape) {
        let Shape { num_views, num_values } = shape;
        let mut kept = 0;
        for i in 0..self.labels.len() {
            if self.labels[i] != EXCLUDED {
                if kept < i {
                    self.labels[kept] = self.labels[i];
                    self.samples[kept] = self.samples[i];
                    let (from, to) = (i * num_views, kept * num_views);
                    let len = num_views * num_values;
                    self.images.copy_within(from * num_values, to * num_values, len);
                    if let Some(unfinished) = &mut self.unfinished {
                        unfinished.copy_within(from, to, num_views);
                    }
                }
                kept += 1;
            }
        }
        self.resize(kept, shape);
    }
}

fn pin<T>(by: &dyn Pinning, memory: &[T]) -> Box<dyn Any + Send + Sync> {
    by.pin(memory.as_ptr() as usize, size_of_val(memory))
}

/// The label that marks an image to be left out; no consumer ever sees it.
pub(super) const EXCLUDED: i64 = -1;

/// The slots of one share.
pub(super) struct Ring {
    home: Sender<Slot>,
    free: Receiver<Slot>,
}

impl Ring {
    /// A ring of `slots`: all the memory it will ever hold.
    pub(super) fn new(slots: impl ExactSizeIterator<Item = Slot>) -> Self {
        let (home, free) = bounded(slots.len());
        for slot in slots {
            let sent = home.try_send(slot);
            debug_assert!(sent.is_ok(), "the ring has room for its slots");
        }
        Self { home, free }
    }

    /// Where free slots arrive.
    pub(super) fn free(&self) -> &Receiver<Slot> {
        &self.free
    }

    /// Wraps a filled slot; dropping the batch brings it back here.
    pub(super) fn batch(&self, slot: Slot, step: u64, epoch: u64, first: usize) -> Batch {
        let Slot { pins, images, unfinished, labels, samples } = slot;
        let home = self.home.clone();
        Batch { step, epoch, first, images, unfinished, labels, samples, pins, home }
    }
}
