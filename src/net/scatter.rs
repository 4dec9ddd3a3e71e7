//! From the whole batch back to shares, after the last layer that is cut into slices (hybrid mode).
//!
//! A rank gives every other rank the units it computed of that rank's images, and gets all units of its
//! own: each image's logits are then on one rank, the loss counts it once, and what follows need not
//! know that anything was cut. Its own rank alone has the gradient, which goes the same way back.

use anyhow::Result;
use tch::Tensor;

use super::gather::{Parts, Slices};
use super::{Layer, Pass, Reach};

/// `[batch, units of this rank]` to `[share, units]`.
pub(super) struct Scatter {
    name: String,
    units: Parts,
}

impl Scatter {
    pub(super) fn new(name: String, units: usize) -> Self {
        Self { name, units: Parts::Channels(units) }
    }
}

/// Gives every rank its part of `x` along `whole`, and joins what comes along `part`: from all of one
/// and a part of the other to a part of the one and all of the other.
fn exchange(x: &Tensor, whole: &Slices, part: &Slices, pass: &Pass) -> Result<Tensor> {
    let rank = pass.columns.rank();
    let blocks = whole.cut(&part.pad(x)?)?;
    let mut received = blocks.f_empty_like()?;
    pass.columns.all_to_all(&blocks, &mut received)?;
    whole.trim(&part.join(&received)?, rank)?.f_contiguous().map_err(Into::into)
}

impl Layer for Scatter {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, x: Tensor, pass: &Pass) -> Result<Tensor> {
        exchange(&x, &Parts::Images.slices(pass), &self.units.slices(pass), pass)
    }

    fn backward(&mut self, dy: Tensor, pass: &Pass) -> Result<Option<Tensor>> {
        exchange(&dy, &self.units.slices(pass), &Parts::Images.slices(pass), pass).map(Some)
    }

    fn reach(&self) -> Reach {
        Reach::Peers
    }
}
