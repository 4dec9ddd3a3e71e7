//! Where a layer sees what other ranks hold: both columns (conv3, fc6, fc7 and fc8 in the paper, §3.5),
//! all slices, or the shares of the whole batch.
//!
//! Forward joins the parts; backward brings each rank the gradient of its own. What kind of gradient
//! comes back depends on the layer above, and getting it wrong doubles gradients and still trains, so it
//! is part of the type.

use std::ops::Range;

use anyhow::Result;
use tch::Tensor;

use super::{Layer, Pass, Reach};
use crate::topology::parts;

/// What the layer above hands back on each rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatherGradient {
    /// Each rank computed some of the outputs, so gradients are to be summed over ranks.
    Partial,
    /// Every rank computed all outputs, so each already holds the whole gradient.
    Replicated,
}

/// What the ranks hold parts of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// The images of a batch.
    Images,
    /// The channels, so many in all.
    Channels(usize),
}

impl Parts {
    /// How the parts lie in the whole, in rank order.
    pub(super) fn slices(self, pass: &Pass) -> Slices {
        match self {
            Self::Channels(total) => Slices { dim: -1, ranges: parts(total, pass.columns.size()) },
            Self::Images => {
                let mut end = 0;
                let range = |len: &usize| {
                    end += len;
                    end - len..end
                };
                Slices { dim: 0, ranges: pass.shares.iter().map(range).collect() }
            }
        }
    }
}

/// The ranks' ranges along one dimension of a tensor.
///
/// Collectives want equal parts, so shorter ones travel with zeros behind them, as *blocks* of the
/// length of the first, which none exceeds.
pub(super) struct Slices {
    dim: i64,
    ranges: Vec<Range<usize>>,
}

impl Slices {
    /// The length of a block.
    fn longest(&self) -> i64 {
        self.ranges[0].len() as i64
    }

    fn is_even(&self) -> bool {
        self.ranges.iter().all(|range| range.len() == self.ranges[0].len())
    }

    /// Rank `rank`'s part of `whole`, a view.
    fn of(&self, whole: &Tensor, rank: usize) -> Result<Tensor> {
        let range = &self.ranges[rank];
        Ok(whole.f_narrow(self.dim, range.start as i64, range.len() as i64)?)
    }

    /// A part with zeros behind it, to the length of a block.
    pub(super) fn pad(&self, part: &Tensor) -> Result<Tensor> {
        let dim = self.dim.rem_euclid(part.dim() as i64);
        let missing = self.longest() - part.size()[dim as usize];
        if missing == 0 {
            return Ok(part.shallow_clone());
        }
        // Pairs from the last dimension backwards.
        let mut padding = vec![0; 2 * (part.dim() - dim as usize)];
        if let Some(behind) = padding.last_mut() {
            *behind = missing;
        }
        Ok(part.f_constant_pad_nd(padding)?)
    }

    /// A block without the zeros behind rank `rank`'s part.
    pub(super) fn trim(&self, block: &Tensor, rank: usize) -> Result<Tensor> {
        Ok(block.f_narrow(self.dim, 0, self.ranges[rank].len() as i64)?)
    }

    /// All ranks' parts of `whole` as blocks, `[ranks, block]`, contiguous.
    pub(super) fn cut(&self, whole: &Tensor) -> Result<Tensor> {
        if self.dim == 0 && self.is_even() {
            let whole = whole.f_contiguous()?;
            let mut shape = whole.size();
            shape[0] = self.longest();
            shape.insert(0, self.ranges.len() as i64);
            return Ok(whole.f_view(&shape[..])?);
        }
        let blocks = (0..self.ranges.len()).map(|rank| self.pad(&self.of(whole, rank)?));
        Ok(Tensor::f_stack(&blocks.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// The inverse of [`Slices::cut`].
    pub(super) fn join(&self, blocks: &Tensor) -> Result<Tensor> {
        if self.dim == 0 && self.is_even() {
            return Ok(blocks.f_flatten(0, 1)?);
        }
        let part = |rank: usize| self.trim(&blocks.f_select(0, rank as i64)?, rank);
        let parts = (0..self.ranges.len()).map(part).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_cat(&parts, self.dim)?)
    }
}

/// A part on each rank to the whole on all.
pub(super) struct Gather {
    name: String,
    parts: Parts,
    gradient: GatherGradient,
}

impl Gather {
    pub(super) fn new(name: String, parts: Parts, gradient: GatherGradient) -> Self {
        Self { name, parts, gradient }
    }
}

impl Layer for Gather {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, x: Tensor, pass: &Pass) -> Result<Tensor> {
        let slices = self.parts.slices(pass);
        let block = slices.pad(&x)?.f_contiguous()?;
        let mut shape = block.size();
        shape.insert(0, pass.columns.size() as i64);
        let mut blocks = Tensor::f_empty(shape, (x.kind(), x.device()))?;
        pass.columns.all_gather(&block, &mut blocks)?;
        slices.join(&blocks)
    }

    fn backward(&mut self, dy: Tensor, pass: &Pass) -> Result<Option<Tensor>> {
        let (slices, rank) = (self.parts.slices(pass), pass.columns.rank());
        if self.gradient == GatherGradient::Replicated {
            return Ok(Some(slices.of(&dy, rank)?.f_contiguous()?));
        }
        let blocks = slices.cut(&dy)?;
        let mut dx = Tensor::f_empty(&blocks.size()[1..], (dy.kind(), dy.device()))?;
        pass.columns.reduce_scatter(&blocks, &mut dx)?;
        Ok(Some(slices.trim(&dx, rank)?.f_contiguous()?))
    }

    fn reach(&self) -> Reach {
        Reach::Peers
    }
}
