//! One process at a time in a folder.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Keeps other processes out of the folder until it is dropped.
#[derive(Debug)]
pub struct FolderLock {
    /// The folder; the system releases its lock with it, however the process ends.
    _folder: File,
    effect: Effect,
}

/// What a lock does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// No other process has the folder.
    Exclusive,
    /// The file system has no locks: others may have it.
    None,
}

impl FolderLock {
    /// Takes a folder that no other process has taken, as far as its file system can tell. `doing` and `advice`
    /// are for the message: what the other process does in it, and what to do.
    ///
    /// # Errors
    /// If another process has it, or there is no such folder.
    pub fn take(dir: &Path, doing: &str, advice: &str) -> Result<Self> {
        let folder = File::open(dir).with_context(|| format!("cannot open {}", dir.display()))?;
        match folder.try_lock() {
            Err(TryLockError::WouldBlock) => {
                bail!("{}: another process is {doing} it; {advice}", dir.display())
            }
            Ok(()) => Ok(Self { _folder: folder, effect: Effect::Exclusive }),
            Err(TryLockError::Error(_)) => Ok(Self { _folder: folder, effect: Effect::None }),
        }
    }

    /// Says in the log, where it keeps nobody out, that people have to: no other process may be `doing` the folder
    /// `dir`.
    pub fn warn_without_effect(&self, dir: &Path, doing: &str) {
        if let Some(text) = warning(self.effect, dir, doing) {
            tracing::warn!("{text}");
        }
    }

    /// Whether it keeps anybody out.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.effect
    }
}

fn warning(effect: Effect, dir: &Path, doing: &str) -> Option<String> {
    (effect == Effect::None).then(|| {
        format!(
            "{}: its file system has no locks, so nothing keeps out other processes; see to it that none is \
             {doing} it",
            dir.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_without_effect_is_said_and_one_that_works_is_not() {
        let dir = Path::new("runs/net");
        assert_eq!(warning(Effect::Exclusive, dir, "training in"), None);
        let text = warning(Effect::None, dir, "training in").expect("nobody is kept out");
        assert!(
            text.starts_with("runs/net: ") && text.ends_with("none is training in it"),
            "{text}"
        );
    }
}
