//! Values that travel in fewer bits than they are computed in.
//!
//! Rounding is for what averages out: gradients on their way to a sum, and activations. What ranks have
//! to hold the same bits of (weights, counts) is left to the group itself. Sums of narrowed values are
//! taken here, after their way, in the precision of the computation and whoever carries them: fp32 of
//! bf16 in an fp32 run. Values that travel as they are computed are the group's to add: of bf16 ones
//! threads take the sum in fp32 and round once, and NCCL rounds at every hop.

use std::cell::RefCell;

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use super::Collective;

/// The widest kind in which values travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire(Option<Kind>);

impl Wire {
    /// As values are computed.
    pub const AS_COMPUTED: Self = Self(None);

    /// In `kind` at most.
    #[must_use]
    pub fn at_most(kind: Kind) -> Self {
        Self(Some(kind))
    }

    /// Whether values of `kind` are rounded on their way.
    #[must_use]
    pub fn narrows(self, kind: Kind) -> bool {
        let is_float = matches!(kind, Kind::Double | Kind::Float);
        is_float && self.0.is_some_and(|wire| wire.elt_size_in_bytes() < kind.elt_size_in_bytes())
    }

    /// `x` as it travels.
    fn narrow(self, x: &Tensor) -> Result<Tensor> {
        match self.0 {
            Some(kind) if self.narrows(x.kind()) => Ok(x.f_to_kind(kind)?),
            _ => Ok(x.shallow_clone()),
        }
    }

    /// As [`Collective::begin_reduce_scatter`]: the result is there after the group's next
    /// [`Collective::flush`] and then [`Reduction::finish`].
    ///
    /// # Errors
    /// If a peer has failed.
    pub fn begin_reduce_scatter(
        self,
        group: &dyn Collective,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<Reduction> {
        if !self.narrows(x.kind()) {
            group.begin_reduce_scatter(x, out)?;
            return Ok(Reduction(None));
        }
        let begin = |x: &Tensor, out: &mut Tensor| group.begin_all_to_all(x, out);
        Ok(Reduction(Some(self.exchange(group, x, out, begin)?)))
    }

    /// Sends every rank its part of `x`, rounded, by `all_to_all`.
    fn exchange(
        self,
        group: &dyn Collective,
        x: &Tensor,
        out: &Tensor,
        all_to_all: impl FnOnce(&Tensor, &mut Tensor) -> Result<()>,
    ) -> Result<Arrived> {
        let (size, rank, len) = (group.size(), group.rank(), out.numel());
        ensure!(x.numel() == len * size, "reduce-scatter of {} elements into {len}", x.numel());
        let sent = self.narrow(x)?;
        let mut received = sent.f_empty_like()?;
        all_to_all(&sent, &mut received)?;
        // What this rank keeps for itself is not rounded.
        let own = x.f_view([size as i64, -1])?.f_select(0, rank as i64)?;
        let received = received.f_view([size as i64, -1])?;
        Ok(Arrived { sent, received, own, out: out.f_view([-1])?, rank })
    }
}

/// A sum over ranks under way.
#[must_use]
pub struct Reduction(Option<Arrived>);

struct Arrived {
    /// Peers may read it until the group's next operation.
    sent: Tensor,
    received: Tensor, // [ranks, n]
    own: Tensor,      // [n]
    out: Tensor,      // [n]
    rank: usize,
}

impl Reduction {
    /// Fills the `out` that the sum was started with.
    ///
    /// # Errors
    /// If libtorch refuses the shapes.
    pub fn finish(self) -> Result<()> {
        self.0.map_or(Ok(()), Arrived::add_up)
    }
}

impl Arrived {
    fn add_up(self) -> Result<()> {
        let Self { received, own, mut out, rank, .. } = self;
        if out.data_ptr() != own.data_ptr() {
            out.f_copy_(&own)?;
        }
        for peer in (0..received.size()[0]).filter(|&peer| peer != rank as i64) {
            let _ = out.f_add_(&received.f_select(0, peer)?)?;
        }
        Ok(())
    }
}

/// A group whose gathers, sums of parts and exchanges travel over a [`Wire`]; its other operations, and
/// all on values that the wire does not narrow, are the group's own. What is narrowed has arrived when
/// its operation returns, also one that begins with `begin_`.
pub struct Narrowed {
    group: Box<dyn Collective>,
    wire: Wire,
    /// What peers may still be reading.
    lent: RefCell<Option<Tensor>>,
}

impl Narrowed {
    /// `group` over `wire`.
    #[must_use]
    pub fn new(group: Box<dyn Collective>, wire: Wire) -> Self {
        Self { group, wire, lent: RefCell::new(None) }
    }

    /// Runs `operation` on `x` as it travels and on a tensor of that kind, copied to `out` after it.
    fn travel(
        &self,
        x: &Tensor,
        out: &mut Tensor,
        operation: impl FnOnce(&Tensor, &mut Tensor) -> Result<()>,
    ) -> Result<()> {
        if !self.wire.narrows(x.kind()) {
            return operation(x, out);
        }
        let sent = self.wire.narrow(x)?;
        let mut received = Tensor::f_empty(out.size(), (sent.kind(), out.device()))?;
        operation(&sent, &mut received)?;
        self.lent.replace(Some(sent));
        Ok(out.f_copy_(&received)?)
    }
}

impl Collective for Narrowed {
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
        self.travel(shard, out, |shard, out| self.group.all_gather(shard, out))
    }

    fn reduce_scatter(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        if !self.wire.narrows(x.kind()) {
            return self.group.reduce_scatter(x, out);
        }
        let at_once = |x: &Tensor, out: &mut Tensor| self.group.all_to_all(x, out);
        let arrived = self.wire.exchange(&*self.group, x, out, at_once)?;
        self.lent.replace(Some(arrived.sent.shallow_clone()));
        arrived.add_up()
    }

    fn all_to_all(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.travel(x, out, |x, out| self.group.all_to_all(x, out))
    }

    fn broadcast(&self, x: &mut Tensor, root: usize) -> Result<()> {
        self.group.broadcast(x, root)
    }

    fn begin_all_gather(&self, shard: &Tensor, out: &mut Tensor) -> Result<()> {
        match self.wire.narrows(shard.kind()) {
            true => self.all_gather(shard, out),
            false => self.group.begin_all_gather(shard, out),
        }
    }

    fn begin_reduce_scatter(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        match self.wire.narrows(x.kind()) {
            true => self.reduce_scatter(x, out),
            false => self.group.begin_reduce_scatter(x, out),
        }
    }

    fn begin_all_to_all(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        match self.wire.narrows(x.kind()) {
            true => self.all_to_all(x, out),
            false => self.group.begin_all_to_all(x, out),
        }
    }

    fn share(&self, x: &Tensor) -> Result<Tensor> {
        self.group.share(x)
    }

    fn flush(&self) -> Result<()> {
        self.group.flush()?;
        self.lent.replace(None);
        Ok(())
    }

    fn sent_bytes(&self) -> u64 {
        self.group.sent_bytes()
    }
}
