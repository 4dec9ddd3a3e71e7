//! Between what one rank holds and the canonical tensors of the merged two-column network.
//!
//! Checkpoints, initial weights and comparisons speak of canonical tensors only, so none of them depends
//! on how many devices there are.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tch::{Device, Tensor};

use crate::params::{ParamSpec, Placement};

/// Canonical tensors by name, for instance `conv1.weight`, on the CPU.
pub type Tensors = BTreeMap<String, Tensor>;

/// Writes one rank's part of a parameter into its canonical tensor, which is made if it is missing.
pub fn merge(into: &mut Tensors, name: String, spec: &ParamSpec, part: &Tensor) {
    let whole = into
        .entry(name)
        .or_insert_with(|| Tensor::zeros(spec.canonical_shape(), (part.kind(), Device::Cpu)));
    match spec.placement {
        Placement::Whole => whole.copy_(part),
        Placement::Rows { first, rows, .. } => whole.narrow(0, first, rows).copy_(part),
    }
}

/// A rank's part of the canonical tensor `name`.
///
/// # Errors
/// If there is no such tensor.
pub fn part(from: &Tensors, name: &str, spec: &ParamSpec) -> Result<Tensor> {
    let whole = from.get(name).with_context(|| format!("{name} is missing"))?;
    Ok(match spec.placement {
        Placement::Whole => whole.shallow_clone(),
        Placement::Rows { first, rows, .. } => whole.narrow(0, first, rows),
    })
}

/// Canonical tensors that ranks take their parts of at the same time.
pub struct Shared(Mutex<Tensors>);

impl Shared {
    /// Makes `tensors` accessible to all ranks.
    #[must_use]
    pub fn new(tensors: Tensors) -> Self {
        Self(Mutex::new(tensors))
    }

    /// As [`part`].
    ///
    /// # Errors
    /// If there is no such tensor.
    pub fn part(&self, name: &str, spec: &ParamSpec) -> Result<Tensor> {
        part(&self.lock(), name, spec)
    }

    /// Whether there is a tensor `name`.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    /// Held for a look-up only: a rank that waited for its peers with the lock would wait for ever.
    fn lock(&self) -> MutexGuard<'_, Tensors> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::arch::Architecture;
    use crate::net::build::{Cut, Plan, Site};

    #[test]
    fn the_parts_of_columns_or_slices_merge_into_the_whole_and_back() {
        let arch = Architecture::by_name("alexnet-cifar", 10, 0.5).expect("known");
        let plan = |site| Plan::new(&arch, site).expect("divides").params;
        let whole: Tensors =
            plan(Site::WHOLE).into_iter().map(|s| (s.name.clone(), s.initial(3))).collect();
        // Ten classes among twelve ranks leave two of them without any.
        for (cut, num_parts) in
            [(Cut::Columns, 2), (Cut::FullyConnected, 3), (Cut::FullyConnected, 12)]
        {
            let mut merged = Tensors::new();
            for rank in 0..num_parts {
                for spec in plan(Site { part: rank, num_parts, cut }) {
                    let part = part(&whole, &spec.name, &spec).expect("present");
                    assert_eq!(part, spec.initial(3), "{}", spec.name);
                    merge(&mut merged, spec.name.clone(), &spec, &part);
                }
            }
            assert_eq!(merged, whole, "{num_parts} x {cut:?}");
        }
    }
}
