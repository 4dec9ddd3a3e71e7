//! Batches in reused memory: a ring of slots that are allocated once and come home when dropped.
//!
//! A slot knows its memory and where its home is; it knows nothing of threads or images.

use crossbeam_channel::{Receiver, Sender, bounded};

use super::pixels::{Output, Pixels};

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
    /// `[n]`, each below the number of classes.
    pub labels: Vec<i64>,
    /// `[n]`: the index in the source of the image shown.
    pub samples: Vec<u32>,
    home: Sender<Slot>,
}

impl Batch {
    /// A batch that belongs to no ring: `images`, `[n, side, side, 3]`, with their `labels`, `[n]`,
    /// from position `first` of the global batch.
    #[must_use]
    pub fn standalone(first: usize, images: Pixels, labels: Vec<i64>) -> Self {
        let samples = (first..first + labels.len()).map(|i| i as u32).collect();
        Self { step: 0, epoch: 0, first, images, labels, samples, home: bounded(0).0 }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let slot = Slot {
            images: std::mem::take(&mut self.images),
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
    pub(super) images: Pixels,
    pub(super) labels: Vec<i64>,
    pub(super) samples: Vec<u32>,
}

impl Slot {
    fn new(output: Output, num_images: usize, num_values: usize) -> Self {
        Self {
            images: Pixels::new(output, num_images * num_values),
            labels: vec![0; num_images],
            samples: vec![0; num_images],
        }
    }

    /// Makes room for `num_images`, within the memory allocated at the start.
    pub(super) fn resize(&mut self, num_images: usize, num_values: usize) {
        self.images.resize(num_images * num_values);
        self.labels.resize(num_images, 0);
        self.samples.resize(num_images, 0);
    }

    /// Closes the gaps left by images whose label is [`EXCLUDED`], keeping the order.
    pub(super) fn compact(&mut self, num_values: usize) {
        let mut kept = 0;
        for i in 0..self.labels.len() {
            if self.labels[i] != EXCLUDED {
                if kept < i {
                    self.labels[kept] = self.labels[i];
                    self.samples[kept] = self.samples[i];
                    self.images.copy_within(i * num_values, kept * num_values, num_values);
                }
                kept += 1;
            }
        }
        self.resize(kept, num_values);
    }
}

/// The label that marks an image to be left out; no consumer ever sees it.
pub(super) const EXCLUDED: i64 = -1;

/// The slots of one share.
pub(super) struct Ring {
    home: Sender<Slot>,
    free: Receiver<Slot>,
}

impl Ring {
    /// Allocates all the memory the ring will ever hold.
    pub(super) fn new(
        num_slots: usize,
        output: Output,
        num_images: usize,
        num_values: usize,
    ) -> Self {
        let (home, free) = bounded(num_slots);
        for _ in 0..num_slots {
            let sent = home.try_send(Slot::new(output, num_images, num_values));
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
        let Slot { images, labels, samples } = slot;
        Batch { step, epoch, first, images, labels, samples, home: self.home.clone() }
    }
}
