//! A group of threads whose operations are noted in a journal, for the watchdog.
//!
//! Operations between threads end when they return, so a wrapper notes them; it adds nothing else.

use std::sync::Arc;

use anyhow::Result;
use tch::Tensor;

use super::watchdog::{Abortable, Journal};
use super::{Collective, InProcess, Rendezvous, num_bytes};

/// One rank's end of a group of threads, and its journal.
pub struct Watched {
    inner: InProcess,
    end: Arc<ThreadsEnd>,
}

/// What the watchdog sees of it.
struct ThreadsEnd {
    journal: Journal,
    group: Rendezvous,
}

impl Abortable for ThreadsEnd {
    fn journal(&self) -> &Journal {
        &self.journal
    }

    fn poll(&self) -> Option<String> {
        None
    }

    fn abort(&self) {
        self.group.poison();
    }
}

impl Watched {
    /// This thread's end of `group`, at `position`.
    #[must_use]
    pub fn join(group: &Rendezvous, position: usize, journal: Journal) -> Self {
        let end = Arc::new(ThreadsEnd { journal, group: group.clone() });
        Self { inner: group.join(position), end }
    }

    /// What to hand to the watchdog.
    #[must_use]
    pub fn end(&self) -> Arc<dyn Abortable> {
        Arc::clone(&self.end) as _
    }

    /// Notes `operation`. One that failed is over, too.
    fn note<T>(&self, name: &'static str, bytes: usize, operation: impl FnOnce() -> T) -> T {
        let number = self.end.journal.begin(name, bytes);
        let result = operation();
        self.end.journal.end(number);
        result
    }
}

impl Collective for Watched {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn all_reduce(&self, x: &mut Tensor) -> Result<()> {
        self.note("all-reduce", num_bytes(x), || self.inner.all_reduce(x))
    }

    fn all_gather(&self, shard: &Tensor, out: &mut Tensor) -> Result<()> {
        self.note("all-gather", num_bytes(shard), || self.inner.all_gather(shard, out))
    }

    fn reduce_scatter(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.note("reduce-scatter", num_bytes(x), || self.inner.reduce_scatter(x, out))
    }

    fn all_to_all(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.note("all-to-all", num_bytes(x), || self.inner.all_to_all(x, out))
    }

    fn broadcast(&self, x: &mut Tensor, root: usize) -> Result<()> {
        self.note("broadcast", num_bytes(x), || self.inner.broadcast(x, root))
    }

    fn share(&self, x: &Tensor) -> Result<Tensor> {
        self.note("share", num_bytes(x), || self.inner.share(x))
    }

    fn flush(&self) -> Result<()> {
        self.note("flush", 0, || self.inner.flush())
    }

    fn sent_bytes(&self) -> u64 {
        self.inner.sent_bytes()
    }
}
