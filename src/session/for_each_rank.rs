//! What every rank needs once and none needs after that: weights to begin from, the loader of an evaluation.
//!
//! It may be as large as the network, or a ring of batches, so it is gone when the last rank is done with it.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

/// One value for a number of ranks, each of which takes its own hold of it, once.
pub(super) struct ForEachRank<T>(Mutex<Vec<Arc<T>>>);

impl<T> Default for ForEachRank<T> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<T> ForEachRank<T> {
    /// `value`, for `num_ranks` ranks.
    pub(super) fn of(value: T, num_ranks: usize) -> Self {
        Self(Mutex::new(holds(value, num_ranks)))
    }

    /// A rank's hold of the value.
    ///
    /// # Errors
    /// If all ranks have had theirs.
    pub(super) fn take(&self) -> Result<Arc<T>> {
        let hold = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        hold.context("a rank took what every rank gets once for the second time: this is a defect")
    }

    /// As [`take`](Self::take), of what the first of `num_ranks` ranks makes. When the last has taken it, the
    /// next makes another.
    ///
    /// # Errors
    /// What `make` says.
    pub(super) fn take_or_make(
        &self,
        num_ranks: usize,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if left.is_empty() {
            *left = holds(make()?, num_ranks);
        }
        left.pop().context("there are no ranks to take anything: this is a defect")
    }
}

fn holds<T>(value: T, num_ranks: usize) -> Vec<Arc<T>> {
    let value = Arc::new(value);
    (0..num_ranks).map(|_| Arc::clone(&value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_gone_when_the_last_rank_is_done_with_it() {
        let ranks = ForEachRank::of("weights", 2);
        let first = ranks.take().expect("the first rank's");
        let watch = Arc::downgrade(&first);
        drop(first);
        assert!(watch.upgrade().is_some(), "a rank has not come yet");
        let second = ranks.take().expect("the second rank's");
        assert!(watch.upgrade().is_some());
        drop(second);
        assert!(watch.upgrade().is_none());
        assert!(ranks.take().is_err(), "there are two ranks");
    }

    #[test]
    fn the_first_rank_makes_what_all_take_and_the_next_round_is_made_anew() {
        let ranks = ForEachRank::default();
        let round = |n: u32| [(); 3].map(|()| ranks.take_or_make(3, || Ok(n)).expect("made"));
        assert_eq!(round(1).map(|value| *value), [1, 1, 1]);
        let [first, ..] = round(2);
        assert_eq!((*first, Arc::strong_count(&first)), (2, 1));
    }
}
