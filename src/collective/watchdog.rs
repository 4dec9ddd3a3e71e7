//! Notices a collective that does not end, so that it can be ended for everyone.
//!
//! A rank that waits in a collective cannot look after itself, and NCCL has no deadline of its own. So
//! every rank's end of a group keeps a [`Journal`] of what it has begun, and whoever supervises the ranks
//! calls [`Watchdog::tick`]. Time comes in through that call alone. What libraries have to say is asked for
//! elsewhere, by [`Watchdog::poll`]: a call of CUDA that hangs would hold up the clock. The module knows no
//! library, no tensor and no thread of a rank.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use crossbeam_channel::{RecvTimeoutError, bounded};

/// A rank's end of a group: who looks at whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The rank, within the run.
    pub rank: usize,
    /// The axis the group lies on, in words.
    pub axis: &'static str,
    /// The number of the group on its axis.
    pub group: usize,
}

/// One call of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What it is, in words.
    pub name: &'static str,
    /// The payload on this rank.
    pub bytes: usize,
    /// The training step it belongs to.
    pub step: u64,
    /// Its number among this rank's operations in the group, from 0: the same on all ranks.
    pub number: u64,
}

/// What one rank has begun in one group.
#[derive(Debug)]
pub struct Journal {
    /// Whose journal it is.
    pub member: Member,
    /// The rank's step, which the rank keeps up to date.
    step: Arc<AtomicU64>,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    num_begun: u64,
    /// Begun and not known to have ended, the oldest first.
    open: VecDeque<Operation>,
}

impl Journal {
    /// An empty journal, which takes the step from `step`.
    #[must_use]
    pub fn new(member: Member, step: Arc<AtomicU64>) -> Self {
        Self { member, step, entries: Mutex::default() }
    }

    /// Notes that an operation begins; its number.
    pub fn begin(&self, name: &'static str, bytes: usize) -> u64 {
        let step = self.step.load(Ordering::Relaxed);
        let mut entries = self.lock();
        let number = entries.num_begun;
        entries.num_begun += 1;
        entries.open.push_back(Operation { name, bytes, step, number });
        number
    }

    /// Notes that operation `number`, and with it all earlier ones, has ended.
    pub fn end(&self, number: u64) {
        let mut entries = self.lock();
        while entries.open.front().is_some_and(|operation| operation.number <= number) {
            entries.open.pop_front();
        }
    }

    fn oldest(&self) -> Option<Operation> {
        self.lock().open.front().copied()
    }

    fn num_begun(&self) -> u64 {
        self.lock().num_begun
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A rank's end of a group, as others see it. Its methods are called while the rank uses it.
pub trait Abortable: Send + Sync {
    /// What the rank has begun.
    fn journal(&self) -> &Journal;

    /// Notes what has ended since the last call, and returns an error of the library, if any. May take
    /// as long as the library does.
    fn poll(&self) -> Option<String>;

    /// Leaves the group in good order, together with the others. Called by the rank, after its last
    /// operation.
    ///
    /// # Errors
    /// If the library fails.
    fn finish(&self) -> Result<()> {
        Ok(())
    }

    /// Ends every wait of the rank in the group, now and later. It may itself never return.
    fn abort(&self);
}

/// A collective that will not end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} of {} bytes (step {}, operation {}, {} axis) {why}",
    operation.name, operation.bytes, operation.step, operation.number, member.axis
)]
pub struct Stuck {
    /// Who waits.
    pub member: Member,
    /// For what.
    pub operation: Operation,
    /// How it shows.
    pub why: Why,
}

/// How a collective shows that it will not end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It took too long.
    Late {
        /// How long it was given.
        limit: Duration,
        /// The ranks of the group that have not begun it.
        missing: Vec<usize>,
    },
    /// The library reports an error.
    Broken(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(error) => write!(f, "failed: {error}"),
            Self::Late { limit, missing } => {
                write!(f, "has not ended within {} s: ", limit.as_secs_f64())?;
                match &missing[..] {
                    [] => f.write_str("all ranks have begun it")?,
                    [rank] => write!(f, "rank {rank} has not begun it")?,
                    ranks => write!(f, "ranks {ranks:?} have not begun it")?,
                }
                f.write_str("; if it only needs longer, raise devices.collective_timeout_s")
            }
        }
    }
}

/// What became of the aborts of all ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aborts {
    /// All have returned.
    Done,
    /// Some have not.
    Hang,
}

/// Watches all groups of a run.
pub struct Watchdog {
    limit: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Who is to come.
    expected: Vec<Member>,
    /// Who has.
    observed: Vec<Observed>,
    /// The first error a poll has found.
    broken: Option<Stuck>,
    /// All have been aborted, and whoever comes now comes too late.
    is_over: bool,
}

/// One rank's end of one group.
struct Observed {
    end: Arc<dyn Abortable>,
    /// The oldest open operation at the last tick, and for how long it has been that.
    number: Option<u64>,
    age: Duration,
}

impl Watchdog {
    /// A watchdog that lets an operation take `limit` once those before it have ended.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, state: Mutex::default() }
    }

    /// Expects these ends to come: one that does not is named where the others wait for it.
    pub fn expect(&self, members: impl IntoIterator<Item = Member>) {
        self.lock().expected.extend(members);
    }

    /// Watches one more end from now on. Once the others have been aborted, it is at once.
    pub fn watch(&self, end: Arc<dyn Abortable>) {
        let is_over = {
            let mut state = self.lock();
            state.observed.push(Observed { end: end.clone(), number: None, age: Duration::ZERO });
            state.is_over
        };
        // It has begun nothing that an abort could hang on.
        if is_over {
            end.abort();
        }
    }

    /// Asks every end's library what has ended, and whether something failed, for the next tick.
    pub fn poll(&self) {
        let ends: Vec<_> = self.lock().observed.iter().map(|one| Arc::clone(&one.end)).collect();
        for end in ends {
            let Some(error) = end.poll() else { continue };
            let journal = end.journal();
            let operation = journal.oldest().unwrap_or_else(|| idle(journal));
            let (member, why) = (journal.member, Why::Broken(error));
            self.lock().broken.get_or_insert(Stuck { member, operation, why });
        }
    }

    /// Looks at all journals; `elapsed` has passed since the last look. The first trouble found, if any.
    #[must_use]
    pub fn tick(&self, elapsed: Duration) -> Option<Stuck> {
        let mut state = self.lock();
        if let Some(broken) = state.broken.take() {
            return Some(broken);
        }
        let mut late = None;
        for one in &mut state.observed {
            let journal = one.end.journal();
            let (member, oldest) = (journal.member, journal.oldest());
            let number = oldest.map(|operation| operation.number);
            one.age = if number == one.number { one.age + elapsed } else { Duration::ZERO };
            one.number = number;
            if let Some(operation) = oldest.filter(|_| one.age >= self.limit) {
                late.get_or_insert((member, operation));
            }
        }
        let (member, operation) = late?;
        let missing = state.missing(member, operation.number);
        Some(Stuck { member, operation, why: Why::Late { limit: self.limit, missing } })
    }

    /// Ends every wait of every rank, those that are yet to join included, and returns once that is done
    /// or `patience` has passed; which of the two. An abort of NCCL may hang, so each has a
    /// thread, which a hanging one keeps.
    pub fn abort_all(&self, patience: Duration) -> Aborts {
        let ends: Vec<_> = {
            let mut state = self.lock();
            state.is_over = true;
            state.observed.iter().map(|one| Arc::clone(&one.end)).collect()
        };
        let (done, finished) = bounded::<()>(0);
        let mut all_begun = true;
        for end in ends {
            let done = done.clone();
            let abort = move || {
                end.abort();
                drop(done);
            };
            if let Err(error) = std::thread::Builder::new().name("abort".into()).spawn(abort) {
                tracing::error!("cannot start a thread to end the collectives: {error}");
                all_begun = false;
            }
        }
        drop(done);
        // Nothing is ever sent: the channel closes when the last abort is done.
        match finished.recv_timeout(patience) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) if all_begun => Aborts::Done,
            Ok(()) | Err(_) => Aborts::Hang,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stands for an operation where a library fails between two of them.
fn idle(journal: &Journal) -> Operation {
    let step = journal.step.load(Ordering::Relaxed);
    Operation {
        name: "communicator between operations",
        bytes: 0,
        step,
        number: journal.num_begun(),
    }
}

impl State {
    /// The ranks of `member`'s group that have not begun operation `number`.
    fn missing(&self, member: Member, number: u64) -> Vec<usize> {
        let is_peer = |other: &Member| (other.axis, other.group) == (member.axis, member.group);
        let journals = || self.observed.iter().map(|one| one.end.journal());
        let has_come = |rank| journals().any(|j| is_peer(&j.member) && j.member.rank == rank);
        let not_come = self.expected.iter().filter(|one| is_peer(one) && !has_come(one.rank));
        let late = journals().filter(|j| is_peer(&j.member) && j.num_begun() <= number);
        let mut ranks: Vec<_> =
            late.map(|j| j.member.rank).chain(not_come.map(|one| one.rank)).collect();
        ranks.sort_unstable();
        ranks
    }
}

#[cfg(test)]
mod tests;
