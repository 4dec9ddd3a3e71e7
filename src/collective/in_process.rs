//! Collectives between threads of one process that lend each other their tensors.
//!
//! Every rank lays its tensor on the table, waits at the gate and reads its peers' tensors, in place
//! and without copies of its own. Nobody waits for the readers, except where what is lent is written, in
//! all-reduce and broadcast: that they have finished is known at the next gate, or at
//! [`Collective::flush`]. Sums run in rank order on every rank, so all ranks get
//! the same bits. Works on CPU and CUDA tensors; it needs no library and is the reference the others
//! are tested against.

use std::cell::Cell;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use super::{Collective, Gate, PeerFailed, num_bytes};
use crate::elements::{by_kind, bytes, bytes_mut, slice, slice_mut};
use crate::kernels::sum::sum_into;

/// Where the ranks of one group meet. Clone it into each rank's thread, then [`Rendezvous::join`].
#[derive(Clone)]
pub struct Rendezvous {
    table: Arc<Table>,
}

struct Table {
    gate: Gate,
    /// What each rank lends. Two sets, used in turns: a rank that is one operation ahead must not
    /// take away what a slower one has not picked up yet. It cannot be two ahead.
    lent: [Vec<Mutex<Option<Tensor>>>; 2],
}

impl Rendezvous {
    /// A meeting place for `size` ranks.
    #[must_use]
    pub fn new(size: usize) -> Self {
        let lent = [(); 2].map(|()| (0..size).map(|_| Mutex::new(None)).collect());
        Self { table: Arc::new(Table { gate: Gate::new(size), lent }) }
    }

    /// This thread's end of the group.
    #[must_use]
    pub fn join(&self, rank: usize) -> InProcess {
        let size = self.table.lent[0].len();
        assert!(rank < size, "rank {rank} of {size}");
        let table = Arc::clone(&self.table);
        let device = Cell::new(Device::Cpu);
        InProcess { table, rank, size, num_operations: Cell::new(0), device, sent: Cell::new(0) }
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
    size: usize,
    num_operations: Cell<usize>,
    /// Where the tensors of the last operation are.
    device: Cell<Device>,
    sent: Cell<u64>,
}

impl InProcess {
    /// Lends `x` to the peers and borrows theirs, in rank order.
    fn exchange(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        self.device.set(x.device());
        synchronize(x.device());
        let turn = self.num_operations.get() % 2;
        self.num_operations.set(self.num_operations.get() + 1);
        *self.slot(turn, self.rank) = Some(x.shallow_clone());
        self.table.gate.wait()?;
        (0..self.size)
            .map(|rank| {
                let lent = self.slot(turn, rank);
                Ok(lent.as_ref().map(Tensor::shallow_clone).ok_or(PeerFailed)?)
            })
            .collect()
    }

    /// Waits until the peers have read what this rank lent.
    fn wait_for_readers(&self) -> Result<()> {
        synchronize(self.device.get());
        Ok(self.table.gate.wait()?)
    }

    fn slot(&self, turn: usize, rank: usize) -> MutexGuard<'_, Option<Tensor>> {
        self.table.lent[turn][rank].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what a ring would send for an operation in which each rank passes on `bytes`.
    fn count(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    /// This rank's part of `len` elements cut into one part a rank; they differ by one at most.
    fn part(&self, rank: usize, len: usize) -> Range<usize> {
        rank * len / self.size..(rank + 1) * len / self.size
    }

    /// Adds the peers' elements `range` to `own`, which holds this rank's, in rank order.
    fn add(&self, lent: &[Tensor], range: &Range<usize>, own: &mut Tensor) -> Result<()> {
        let part = |x: &Tensor| range_of(&x.view(-1), range).to_device(own.device());
        let before: Vec<_> = lent[..self.rank].iter().map(part).collect();
        let after: Vec<_> = lent[self.rank + 1..].iter().map(part).collect();
        if own.device() == Device::Cpu {
            by_kind!(own.kind(), T => sum_into::<T>(
                &before.iter().map(slice).collect::<Vec<_>>(),
                slice_mut(own),
                &after.iter().map(slice).collect::<Vec<_>>(),
            ));
        } else {
            let mut sum = Tensor::zeros_like(own).to_kind(wide(own.kind()));
            for x in before.iter().chain([&*own]).chain(&after) {
                sum += x;
            }
            own.copy_(&sum);
        }
        Ok(())
    }
}

/// Waits for the device, since a peer's thread cannot order itself after this thread's stream.
fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

/// The kind sums are accumulated in: bf16 has too few bits to add more than two numbers well.
fn wide(kind: Kind) -> Kind {
    if kind == Kind::BFloat16 { Kind::Float } else { kind }
}

fn range_of(flat: &Tensor, range: &Range<usize>) -> Tensor {
    flat.narrow(0, range.start as i64, range.len() as i64)
}

/// Copies unless both are the same memory. On the CPU by `memcpy`, which writes large blocks past the
/// caches; libtorch's copy reads every line before it overwrites it.
fn copy(from: &Tensor, to: &mut Tensor) -> Result<()> {
    if from.data_ptr() == to.data_ptr() {
        return Ok(());
    }
    if from.device() == Device::Cpu && to.device() == Device::Cpu {
        bytes_mut(to).copy_from_slice(bytes(from));
        return Ok(());
    }
    Ok(to.f_copy_(from)?)
}

impl Collective for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce(&self, x: &mut Tensor) -> Result<()> {
        let len = x.numel();
        self.count(2 * num_bytes(x) * (self.size - 1) / self.size);
        let flat = x.view(-1);
        let lent = self.exchange(&flat)?;
        // Peers read their own parts of `x` while this one changes: nobody reads what is written.
        let own = self.part(self.rank, len);
        self.add(&lent, &own, &mut range_of(&flat, &own))?;
        self.wait_for_readers()?;
        for (rank, theirs) in lent.iter().enumerate() {
            let part = self.part(rank, len);
            copy(&range_of(theirs, &part), &mut range_of(&flat, &part))?;
        }
        self.wait_for_readers()
    }

    fn all_gather(&self, shard: &Tensor, out: &mut Tensor) -> Result<()> {
        let len = shard.numel();
        ensure!(
            out.numel() == len * self.size && out.kind() == shard.kind(),
            "all-gather of {len} elements {:?} from {} ranks into {} {:?}",
            shard.kind(),
            self.size,
            out.numel(),
            out.kind()
        );
        self.count(num_bytes(shard) * (self.size - 1));
        let out = out.view(-1);
        for (rank, theirs) in self.exchange(&shard.view(-1))?.iter().enumerate() {
            copy(theirs, &mut range_of(&out, &(rank * len..(rank + 1) * len)))?;
        }
        Ok(())
    }

    fn reduce_scatter(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let len = out.numel();
        ensure!(
            x.numel() == len * self.size && out.kind() == x.kind(),
            "reduce-scatter of {} elements {:?} over {} ranks into {len} {:?}",
            x.numel(),
            x.kind(),
            self.size,
            out.kind()
        );
        self.count(num_bytes(x) * (self.size - 1) / self.size);
        let own = self.rank * len..(self.rank + 1) * len;
        let (flat, mut out) = (x.view(-1), out.view(-1));
        let lent = self.exchange(&flat)?;
        copy(&range_of(&flat, &own), &mut out)?;
        self.add(&lent, &own, &mut out)
    }

    fn all_to_all(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let len = x.numel() / self.size;
        ensure!(
            x.numel() == len * self.size && out.numel() == x.numel() && out.kind() == x.kind(),
            "all-to-all of {} elements {:?} among {} ranks into {} {:?}",
            x.numel(),
            x.kind(),
            self.size,
            out.numel(),
            out.kind()
        );
        self.count(num_bytes(x) * (self.size - 1) / self.size);
        let part = |rank: usize| rank * len..(rank + 1) * len;
        let out = out.view(-1);
        for (rank, theirs) in self.exchange(&x.view(-1))?.iter().enumerate() {
            copy(&range_of(theirs, &part(self.rank)), &mut range_of(&out, &part(rank)))?;
        }
        Ok(())
    }

    fn broadcast(&self, x: &mut Tensor, root: usize) -> Result<()> {
        if self.rank == root {
            self.count(num_bytes(x) * (self.size - 1));
        }
        let lent = self.exchange(x)?;
        copy(&lent[root].view(-1), &mut x.view(-1))?;
        self.wait_for_readers()
    }

    fn share(&self, x: &Tensor) -> Result<Tensor> {
        let lent = self.exchange(x)?;
        let is_seen_by_all = lent.iter().all(|x| x.device() == Device::Cpu);
        Ok(if is_seen_by_all { lent[0].shallow_clone() } else { x.shallow_clone() })
    }

    fn flush(&self) -> Result<()> {
        self.wait_for_readers()?;
        for turn in 0..2 {
            self.slot(turn, self.rank).take();
        }
        Ok(())
    }

    fn sent_bytes(&self) -> u64 {
        self.sent.get()
    }
}
