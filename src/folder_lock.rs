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

    /// Whether it keeps anybody out.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.effect
    }
}
