//! The tally of images that cannot be read: each named once, all counted, too many an error.
//!
//! A large image set has a few broken files and a run should survive them, but a run on a broken
//! disk should not look healthy. The tally does not decide what replaces an image.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::error::DataError;
use super::source::Source;

/// The distinct bad images of one split, shared by all workers.
#[derive(Debug)]
pub struct BadImages {
    /// Images in the split.
    len: usize,
    limit: usize,
    /// By index, so that what is reported does not depend on which thread came first.
    found: Mutex<BTreeMap<usize, Bad>>,
}

#[derive(Clone, Debug)]
struct Bad {
    name: String,
    reason: String,
}

impl BadImages {
    /// A tally for `len` images that tolerates `floor(max_fraction * len)` bad ones, but at least
    /// one unless `max_fraction` is zero: one broken file should not end a run on a small set.
    #[must_use]
    pub fn new(len: usize, max_fraction: f64) -> Self {
        Self { len, limit: Self::tolerated(len, max_fraction), found: Mutex::default() }
    }

    /// How many bad ones of `len` images are tolerated.
    #[must_use]
    pub fn tolerated(len: usize, max_fraction: f64) -> usize {
        match max_fraction {
            fraction if fraction > 0.0 => ((fraction * len as f64) as usize).max(1),
            _ => 0,
        }
    }

    /// The number of distinct bad images met so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Notes that image `index` is bad; the first time, says so in the log.
    pub(super) fn note(&self, source: &dyn Source, index: usize, reason: String) {
        if let std::collections::btree_map::Entry::Vacant(entry) = self.lock().entry(index) {
            let name = source.name(index);
            tracing::warn!("{name}: {reason} (image skipped)");
            entry.insert(Bad { name, reason });
        }
    }

    /// # Errors
    /// [`DataError::TooManyBad`] once more are bad than tolerated.
    pub(super) fn check(&self) -> Result<(), DataError> {
        let found = self.lock();
        match found.first_key_value() {
            Some((_, Bad { name, reason })) if found.len() > self.limit => {
                Err(DataError::TooManyBad {
                    count: found.len(),
                    len: self.len,
                    limit: self.limit,
                    first: name.clone(),
                    reason: reason.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Bad>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
