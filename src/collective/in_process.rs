//! Collectives between threads of one process that lend each other their tensors.
//!
//! Every rank lays its tensor on the table, waits at the gate, reads its peers' tensors and waits again
//! before it lets go of its own. Sums run in rank order on every rank, so all ranks get the same bits.
//! Works on CPU and CUDA tensors; it needs no library and is the reference the others are tested against.

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use super::{Collective, Gate, PeerFailed};

/// Where the ranks of one group meet. Clone it into each rank's thread, then [`Rendezvous::join`].
#[derive(Clone)]
pub struct Rendezvous {
    table: Arc<Table>,
}

struct Table {
    gate: Gate,
    /// What each rank lends for the operation under way.
    lent: Vec<Mutex<Option<Tensor>>>,
}

impl Rendezvous {
    /// A meeting place for `size` ranks.
    #[must_use]
    pub fn new(size: usize) -> Self {
        let lent = (0..size).map(|_| Mutex::new(None)).collect();
        Self { table: Arc::new(Table { gate: Gate::new(size), lent }) }
    }

    /// This thread's end of the group.
    #[must_use]
    pub fn join(&self, rank: usize) -> InProcess {
        assert!(rank < self.table.lent.len(), "rank {rank} of {}", self.table.lent.len());
        InProcess { table: Arc::clone(&self.table), rank, sent: Cell::new(0) }
    }

    /// Fails every operation of the group, now and later.
    pub fn poison(&self) {
        self.table.gate.poison();
    }
}

/// One rank's end of a group of threads.
pub struct InProcess {
    table: Arc<Table>,
    rank: usize,
    sent: Cell<u64>,
}

impl InProcess {
    /// Lends `x` to the peers while `read` looks at everybody's tensors, in rank order.
    fn exchange<R>(&self, x: &Tensor, read: impl FnOnce(&[Tensor]) -> R) -> Result<R> {
        synchronize(x);
        *self.slot(self.rank) = Some(x.shallow_clone());
        self.table.gate.wait()?;
        let mut lent = Vec::with_capacity(self.table.lent.len());
        for rank in 0..self.table.lent.len() {
            lent.push(self.slot(rank).as_ref().map(Tensor::shallow_clone).ok_or(PeerFailed)?);
        }
        let result = read(&lent);
        synchronize(x);
        self.table.gate.wait()?;
        // Only now may the owner write to its tensor again: everyone has read it.
        self.slot(self.rank).take();
        Ok(result)
    }

    fn slot(&self, rank: usize) -> std::sync::MutexGuard<'_, Option<Tensor>> {
        self.table.lent[rank].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what a ring would send for an operation in which each rank passes `parts` times `bytes`.
    fn count(&self, bytes: usize, parts: usize) {
        self.sent.set(self.sent.get() + (bytes * parts) as u64);
    }
}

/// Waits for the device, since a peer's thread cannot order itself after this thread's stream.
fn synchronize(x: &Tensor) {
    if let Device::Cuda(index) = x.device() {
        tch::Cuda::synchronize(index as i64);
    }
}

fn bytes(x: &Tensor) -> usize {
    x.numel() * x.kind().elt_size_in_bytes()
}

/// The kind sums are accumulated in: bf16 has too few bits to add more than two numbers well.
fn wide(kind: Kind) -> Kind {
    if kind == Kind::BFloat16 { Kind::Float } else { kind }
}

/// The sum of equal-shaped tensors in rank order, on the device and in the kind of `like`.
fn sum(parts: &[Tensor], like: &Tensor) -> Tensor {
    let here = |x: &Tensor| x.to_device(like.device());
    if let [first, second] = parts {
        // One rounding, as below, without the detour through the wide kind.
        return here(first) + here(second);
    }
    let mut total = like.zeros_like().to_kind(wide(like.kind()));
    for part in parts {
        total += here(part);
    }
    total.to_kind(like.kind())
}

impl Collective for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.table.lent.len()
    }

    fn all_reduce(&self, x: &mut Tensor) -> Result<()> {
        self.count(2 * bytes(x) / self.size(), self.size() - 1);
        let lent = x.shallow_clone();
        let total = self.exchange(&lent, |all| sum(all, &lent))?;
        x.copy_(&total);
        Ok(())
    }

    fn all_gather(&self, shard: &Tensor, out: &mut Tensor) -> Result<()> {
        ensure!(
            out.numel() == shard.numel() * self.size(),
            "all-gather of {} elements from {} ranks into {}",
            shard.numel(),
            self.size(),
            out.numel()
        );
        self.count(bytes(shard), self.size() - 1);
        let (own, n) = (self.rank, shard.numel() as i64);
        let out = out.view(-1);
        self.exchange(shard, |all| {
            for (rank, theirs) in all.iter().enumerate() {
                let mut place = out.narrow(0, rank as i64 * n, n);
                if rank != own || place.data_ptr() != theirs.data_ptr() {
                    place.copy_(&theirs.view(-1));
                }
            }
        })
    }

    fn reduce_scatter(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        ensure!(
            x.numel() == out.numel() * self.size(),
            "reduce-scatter of {} elements over {} ranks into {}",
            x.numel(),
            self.size(),
            out.numel()
        );
        self.count(bytes(out), self.size() - 1);
        let n = out.numel() as i64;
        let first = self.rank as i64 * n;
        let mut out = out.view(-1);
        self.exchange(x, |all| {
            let parts: Vec<_> = all.iter().map(|x| x.view(-1).narrow(0, first, n)).collect();
            let total = sum(&parts, &out);
            out.copy_(&total);
        })
    }

    fn broadcast(&self, x: &mut Tensor, root: usize) -> Result<()> {
        if self.rank == root {
            self.count(bytes(x), self.size() - 1);
        }
        let lent = x.shallow_clone();
        self.exchange(&lent, |all| {
            if self.rank != root {
                x.copy_(&all[root]);
            }
        })
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn sent_bytes(&self) -> u64 {
        self.sent.get()
    }
}
