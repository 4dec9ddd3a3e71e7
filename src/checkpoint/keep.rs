//! Which checkpoints lie beside each other in a run's folder, and which of them go.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::replace::UNFINISHED;

/// Which checkpoints stay beside a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How many of the latest, the new one among them; 0 counts as 1. The best one stays besides.
    pub last: usize,
    /// The step of the one before, or of the one that the run went on from; 0 for none. Others of later
    /// steps are of a history that is given up, and none of the latest.
    pub previous: u64,
}

/// Removes what `keep` does not name beside the checkpoint `saved`, which the links have reached.
pub(super) fn prune(all: &Path, saved: &str, keep: Keep) {
    let best = fs::read_link(all.join("best")).ok();
    let numbered = |name: String| Some((numbers_in(&name)?, name));
    let others = names(all).into_iter().filter(|name| name != saved).filter_map(numbered);
    let mut others: Vec<_> = others.collect();
    others.sort();
    let (mut history, mut going) = (BTreeMap::new(), Vec::new());
    for ((step, _), name) in others {
        match step <= keep.previous {
            // In the place of an earlier one of the same step.
            true => going.extend(history.insert(step, name)),
            false => going.push(name),
        }
    }
    let num_old = (history.len() + 1).saturating_sub(keep.last.max(1));
    going.extend(history.into_values().take(num_old));
    for name in going.into_iter().filter(|name| best.as_deref() != Some(Path::new(name))) {
        let (path, hidden) = (all.join(&name), all.join(format!("{UNFINISHED}{name}")));
        // A kill half-way leaves nothing that looks like a checkpoint.
        let removed = fs::rename(&path, &hidden).and_then(|()| fs::remove_dir_all(&hidden));
        if let Err(error) = removed {
            warn_of(&path, &error);
        }
    }
}

/// The first of `step-00000007`, `step-00000007-2`, … that is not there.
pub(super) fn free_name(all: &Path, step: u64) -> String {
    let mut name = format!("step-{step:08}");
    let mut number = 1_u64;
    while all.join(&name).exists() {
        number += 1;
        name = format!("step-{step:08}-{number}");
    }
    name
}

/// The step of a checkpoint's folder of this name, and which of that step it is. Other names are not ours.
pub(super) fn numbers_in(name: &str) -> Option<(u64, u64)> {
    let numbers = name.strip_prefix("step-")?;
    let (step, number) = numbers.split_once('-').unwrap_or((numbers, "1"));
    Some((step.parse().ok()?, number.parse().ok()?))
}

/// What is in the folder. One that cannot be read is a warning, and no reason to end a run.
pub(super) fn names(all: &Path) -> Vec<String> {
    let entries = fs::read_dir(all).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    match entries {
        Ok(entries) => {
            entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect()
        }
        Err(error) => {
            tracing::warn!(
                "cannot see which checkpoints in {} are to go: {error}; check its permissions",
                all.display()
            );
            Vec::new()
        }
    }
}

/// Removes what a process that was killed had begun to write, or to remove, which may be large.
pub(super) fn remove_leftovers(all: &Path) {
    let names = names(all).into_iter().filter(|name| name.starts_with(UNFINISHED));
    for path in names.map(|name| all.join(name)) {
        let removed = match path.is_dir() && !path.is_symlink() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        if let Err(error) = removed {
            warn_of(&path, &error);
        }
    }
}

fn warn_of(path: &Path, error: &io::Error) {
    tracing::warn!(
        "cannot remove {}, which is not kept: {error}; the run goes on; free its space by hand",
        path.display()
    );
}
