//! A group that leaves everything to another: for tests of what lies around it.

use std::ops::Deref;

use alexnet_mgpu::collective::Collective;
use anyhow::Result;
use tch::Tensor;

/// Forwards what every group has to have, and leaves the rest to the trait.
pub(crate) struct Forwarding<C> {
    pub(crate) group: C,
    /// Called before each gather and each flush.
    pub(crate) before: fn(),
}

impl<C> Collective for Forwarding<C>
where
    C: Deref,
    C::Target: Collective,
{
    fn rank(&self) -> usize {
        self.group.rank()
    }
    fn size(&self) -> usize {
        self.group.size()
    }
    fn all_reduce(&self, x: &mut Tensor) -> Result<()> {
        self.group.all_reduce(x)
    }
    fn all_gather(&self, shard: &Tensor, out: &mut Tensor) -> Result<()> {
        (self.before)();
        self.group.all_gather(shard, out)
    }
    fn reduce_scatter(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.group.reduce_scatter(x, out)
    }
    fn broadcast(&self, x: &mut Tensor, root: usize) -> Result<()> {
        self.group.broadcast(x, root)
    }
    fn flush(&self) -> Result<()> {
        (self.before)();
        self.group.flush()
    }
    fn sent_bytes(&self) -> u64 {
        self.group.sent_bytes()
    }
}
