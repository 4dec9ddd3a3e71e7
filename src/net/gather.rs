//! Where a layer sees both columns (conv3, fc6, fc7 and fc8 in the paper, §3.5).
//!
//! Forward joins the columns' channels; backward brings each column the gradient of its own. What kind
//! of gradient comes back depends on the layer above, and getting it wrong doubles gradients and still
//! trains, so it is part of the type.

use anyhow::Result;
use tch::Tensor;

use super::{Layer, Pass};

/// What the layer above hands back on each rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatherGradient {
    /// Each rank computed some of the outputs, so gradients are to be summed over ranks.
    Partial,
    /// Every rank computed all outputs, so each already holds the whole gradient.
    Replicated,
}

/// `[.., C / columns]` on each rank to `[.., C]` on all.
pub(super) struct Gather {
    name: String,
    gradient: GatherGradient,
}

impl Gather {
    pub(super) fn new(name: String, gradient: GatherGradient) -> Self {
        Self { name, gradient }
    }
}

/// Moves the first dimension, the columns, next to the channels: `[k, .., c]` to `[.., k, c]`.
fn columns_to_channels(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_movedim_int(0, -2)?)
}

impl Layer for Gather {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, x: Tensor, pass: &Pass) -> Result<Tensor> {
        let columns = pass.columns.size() as i64;
        let mut shape = x.size();
        let mut parts_shape = vec![columns];
        parts_shape.extend(&shape);
        let mut parts = Tensor::f_empty(parts_shape, (x.kind(), x.device()))?; // [k, .., c]
        pass.columns.all_gather(&x.f_contiguous()?, &mut parts)?;
        if let Some(channels) = shape.last_mut() {
            *channels *= columns;
        }
        Ok(columns_to_channels(&parts)?.f_reshape(shape)?)
    }

    fn backward(&mut self, dy: Tensor, pass: &Pass) -> Result<Option<Tensor>> {
        let columns = pass.columns.size() as i64;
        let mut shape = dy.size();
        let channels = shape.pop().unwrap_or(0) / columns;
        if self.gradient == GatherGradient::Replicated {
            let first = pass.columns.rank() as i64 * channels;
            return Ok(Some(dy.f_narrow(-1, first, channels)?.f_contiguous()?));
        }
        let mut parts_shape = shape.clone();
        parts_shape.extend([columns, channels]);
        let parts = dy.f_reshape(parts_shape)?.f_movedim_int(-2, 0)?.f_contiguous()?; // [k, .., c]
        shape.push(channels);
        let mut dx = Tensor::f_empty(shape, (dy.kind(), dy.device()))?;
        pass.columns.reduce_scatter(&parts, &mut dx)?;
        Ok(Some(dx))
    }
}
