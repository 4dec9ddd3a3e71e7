//! From feature maps to vectors, in the (channel, row, column) order of the canonical fc6.
//!
//! The order costs one small transposition and buys weights that are torchvision's as they stand, and
//! columns whose features are contiguous.

use anyhow::Result;
use tch::Tensor;

use super::{Layer, Pass, kept};

/// `[N, H, W, C]` to `[N, C * H * W]`.
pub(super) struct Flatten {
    name: String,
    shape: Option<Vec<i64>>,
}

impl Flatten {
    pub(super) fn new(name: String) -> Self {
        Self { name, shape: None }
    }
}

impl Layer for Flatten {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, x: Tensor, _pass: &Pass) -> Result<Tensor> {
        let shape = x.size();
        let y = x.f_permute([0, 3, 1, 2])?.f_reshape([shape[0], shape[1] * shape[2] * shape[3]])?;
        self.shape = Some(shape);
        Ok(y)
    }

    fn backward(&mut self, dy: Tensor, _pass: &Pass) -> Result<Option<Tensor>> {
        let shape = kept(&mut self.shape, &self.name)?;
        let [n, h, w, c] = shape[..] else { unreachable!("forward saw four dimensions") };
        Ok(Some(dy.f_view([n, c, h, w])?.f_permute([0, 2, 3, 1])?.f_contiguous()?))
    }
}
