//! Which image comes at which position of an epoch.
//!
//! The order is a function of (seed, epoch, number of images) and of nothing else; it does not know
//! batches, so a run may resume at any position.

use serde::{Deserialize, Serialize};

use crate::random::{Key, Purpose};

/// How an epoch walks through the images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// A new random permutation every epoch.
    #[default]
    Shuffled,
    /// By index, the same every epoch.
    Sequential,
}

/// The order of one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochOrder {
    epoch: u64,
    /// The permutation; empty for [`Order::Sequential`].
    ids: Vec<u32>,
}

impl EpochOrder {
    /// The order of `len` images in `epoch`, by a Fisher-Yates shuffle with keyed draws.
    ///
    /// # Panics
    /// If there are more than 2^32 images.
    #[must_use]
    pub fn new(seed: u64, epoch: u64, len: usize, order: Order) -> Self {
        let mut this = Self { epoch, ids: Vec::new() };
        if order == Order::Shuffled {
            let len = u32::try_from(len).expect("an image set has fewer than 2^32 images");
            this.ids = (0..len).collect();
            this.shuffle(seed);
        }
        this
    }

    fn shuffle(&mut self, seed: u64) {
        let key = Key::new(seed, Purpose::Order).with(self.epoch);
        for last in (1..self.ids.len()).rev() {
            self.ids.swap(last, key.below(last as u64, last as u64 + 1) as usize);
        }
    }

    /// The epoch this is the order of.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The image at `position`, below the number of images.
    #[must_use]
    pub fn at(&self, position: usize) -> usize {
        if self.ids.is_empty() { position } else { self.ids[position] as usize }
    }
}
