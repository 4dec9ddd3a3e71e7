//! What travels between ranks.
//!
//! A [`Collective`] is one group of ranks that act together; each rank's thread owns its end and calls
//! the same operations in the same order as its peers. Sum is the only reduction: losses are scaled
//! where they are born. The module knows tensors and ranks, and nothing of networks.

pub mod contract;
mod gate;
mod in_process;
pub mod nccl;
mod solo;
pub mod watchdog;
mod watched;
mod wire;

use anyhow::Result;
use tch::Tensor;

pub use gate::{Gate, PeerFailed};
pub use in_process::{InProcess, Rendezvous};
pub use solo::Solo;
pub use watched::Watched;
pub use wire::{Narrowed, Reduction, Wire};

/// The payload that `x` is.
fn num_bytes(x: &Tensor) -> usize {
    x.numel() * x.kind().elt_size_in_bytes()
}

/// One rank's end of a group. Shapes are per rank; `size` is the number of ranks in the group.
///
/// Every operation is an error once a peer has failed, instead of a wait without end. Peers may go on
/// reading what was passed in until the next operation of the group, or [`Collective::flush`]: until
/// then only what an operation has filled may be written to.
pub trait Collective {
    /// This rank's position in the group.
    fn rank(&self) -> usize;

    /// The number of ranks in the group.
    fn size(&self) -> usize;

    /// Replaces `x` by its sum over all ranks. Every rank gets the same bits.
    ///
    /// # Errors
    /// If a peer has failed.
    fn all_reduce(&self, x: &mut Tensor) -> Result<()>;

    /// Fills `out`, `[size * n]`, with every rank's `shard`, `[n]`, in rank order.
    ///
    /// `shard` may be this rank's part of `out`.
    ///
    /// # Errors
    /// If a peer has failed.
    fn all_gather(&self, shard: &Tensor, out: &mut Tensor) -> Result<()>;

    /// Fills `out`, `[n]`, with this rank's part of the sum of every rank's `x`, `[size * n]`.
    ///
    /// `out` may be this rank's part of `x`.
    ///
    /// # Errors
    /// If a peer has failed.
    fn reduce_scatter(&self, x: &Tensor, out: &mut Tensor) -> Result<()>;

    /// Fills `out`, `[size * n]`, with the part meant for this rank of every rank's `x`, `[size * n]`,
    /// in rank order: part `i` of `x` goes to rank `i`. `out` and `x` are different memory.
    ///
    /// As it stands here every rank sends everything to everyone, which is right for any group and
    /// sends `size` times what is needed.
    ///
    /// # Errors
    /// If a peer has failed.
    fn all_to_all(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let (size, rank) = (self.size() as i64, self.rank() as i64);
        let mut all =
            Tensor::f_empty([size, size, x.numel() as i64 / size], (x.kind(), x.device()))?;
        self.all_gather(x, &mut all)?;
        Ok(out.f_view([size, -1])?.f_copy_(&all.f_select(1, rank)?)?)
    }

    /// Replaces `x` by the `x` of rank `root`.
    ///
    /// # Errors
    /// If a peer has failed.
    fn broadcast(&self, x: &mut Tensor, root: usize) -> Result<()>;

    /// As [`Collective::all_gather`], but `out` is filled only after [`Collective::flush`]: on a GPU the
    /// rank goes on computing meanwhile. Nobody may write to either tensor before.
    ///
    /// # Errors
    /// If a peer has failed.
    fn begin_all_gather(&self, shard: &Tensor, out: &mut Tensor) -> Result<()> {
        self.all_gather(shard, out)
    }

    /// As [`Collective::reduce_scatter`], but filled only after [`Collective::flush`], as with
    /// [`Collective::begin_all_gather`].
    ///
    /// # Errors
    /// If a peer has failed.
    fn begin_reduce_scatter(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.reduce_scatter(x, out)
    }

    /// As [`Collective::all_to_all`], but filled only after [`Collective::flush`], as with
    /// [`Collective::begin_all_gather`].
    ///
    /// # Errors
    /// If a peer has failed.
    fn begin_all_to_all(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.all_to_all(x, out)
    }

    /// The first rank's `x` itself where the ranks can all work on the same memory, else `x`.
    ///
    /// # Errors
    /// If a peer has failed.
    fn share(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.shallow_clone())
    }

    /// Waits until everything issued so far has arrived here, and peers are done with what was lent to them.
    /// With NCCL it is not the host that waits, but what the rank computes next on its GPU.
    ///
    /// # Errors
    /// If a peer has failed.
    fn flush(&self) -> Result<()>;

    /// Payload bytes this rank has sent since it was created; where ranks read each other's memory,
    /// what they would send over a wire. With `n` ranks and a tensor of `s` bytes passed in:
    ///
    /// | operation | bytes | how |
    /// |---|---|---|
    /// | `all_reduce` | `2 (n - 1) s / n` | ring |
    /// | `all_gather` | `(n - 1) s`, `s` being the shard | ring |
    /// | `reduce_scatter` | `(n - 1) s / n` | ring |
    /// | `all_to_all` | `(n - 1) s / n` | direct |
    /// | `broadcast` | `(n - 1) s` by the root | direct |
    fn sent_bytes(&self) -> u64;
}
