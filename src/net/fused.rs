//! ReLU, LRN and pooling in one pass over a convolution's output, on the CPU.
//!
//! The three layers are bound by memory; together they read the map once, write the pooled map once and
//! keep one byte per output. Bit for bit equal to the layers one after another.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::pool::{map_of, size_of};
use super::{Layer, Mode, Pass, kept};
use crate::elements::{by_kind, slice, slice_mut};
use crate::kernels::relu_lrn_pool::ReluLrnPool as Rule;

/// `[N, H, W, C]` before the ReLU to `[N, H', W', C]` after the pooling.
pub(super) struct ReluLrnPool {
    name: String,
    rule: Rule,
    /// The input and where in its window each output came from.
    kept: Option<(Tensor, Tensor)>,
}

impl ReluLrnPool {
    pub(super) fn new(name: String, rule: Rule) -> Self {
        Self { name, rule, kept: None }
    }
}

impl Layer for ReluLrnPool {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, x: Tensor, pass: &Pass) -> Result<Tensor> {
        let map = map_of(&x);
        let size = size_of(self.rule.pool.output(map));
        let mut y = Tensor::f_empty(size, (x.kind(), Device::Cpu))?;
        let mut positions = Tensor::f_empty(size, (Kind::Uint8, Device::Cpu))?;
        by_kind!(x.kind(), T => self.rule.forward::<T>(
            slice(&x),
            slice_mut(&mut y),
            slice_mut(&mut positions),
            map,
        ));
        self.kept = (pass.mode == Mode::Train).then_some((x, positions));
        Ok(y)
    }

    fn backward(&mut self, dy: Tensor, _pass: &Pass) -> Result<Option<Tensor>> {
        let (x, positions) = kept(&mut self.kept, &self.name)?;
        let mut dx = x.f_empty_like()?;
        by_kind!(x.kind(), T => self.rule.backward::<T>(
            slice(&x),
            slice(&dy),
            slice(&positions),
            slice_mut(&mut dx),
            map_of(&x),
        ));
        Ok(Some(dx))
    }
}
