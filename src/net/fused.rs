//! ReLU, LRN and pooling in one pass over a convolution's output.
//!
//! The three layers are bound by memory; together they read the map once, write the pooled map once and
//! keep one byte per output. Bit for bit equal to the layers one after another. The convolution may leave its
//! bias to them too.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::pool::{map_of, size_of};
use super::{Layer, Mode, Pass, bias, kept};
use crate::cuda::engine;
use crate::elements::{by_kind, device_slice, device_slice_mut, slice, slice_mut};
use crate::kernels::cuda::relu_lrn_pool::{self as on_gpu, Input};
use crate::kernels::relu_lrn_pool::ReluLrnPool as Rule;
use crate::params::Param;

/// `[N, H, W, C]` before the ReLU to `[N, H', W', C]` after the pooling.
pub(super) struct ReluLrnPool {
    name: String,
    rule: Rule,
    /// What the convolution leaves to this layer in training.
    bias: Option<Param>,
    /// The input and where in its window each output came from.
    kept: Option<(Tensor, Tensor)>,
}

impl ReluLrnPool {
    pub(super) fn new(name: String, rule: Rule, bias: Option<Param>) -> Self {
        Self { name, rule, bias, kept: None }
    }
}

impl Layer for ReluLrnPool {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, mut x: Tensor, pass: &Pass) -> Result<Tensor> {
        let map = map_of(&x);
        let lacking = self.bias.as_ref().filter(|_| pass.mode == Mode::Train);
        let size = size_of(self.rule.pool.output(map));
        let mut y = Tensor::f_empty(size, (x.kind(), x.device()))?;
        let mut positions = Tensor::f_empty(size, (Kind::Uint8, x.device()))?;
        match engine(x.device()) {
            Some(on) => by_kind!(x.kind(), T => on_gpu::forward::<T>(
                &on,
                &self.rule,
                Input { a: device_slice(&x), bias: lacking.map(|b| device_slice(&b.weight)), map },
                &mut device_slice_mut(&mut y),
                &mut device_slice_mut(&mut positions),
            ))?,
            None => {
                if let Some(b) = lacking {
                    bias::add(&mut x, b)?;
                }
                by_kind!(x.kind(), T => self.rule.forward::<T>(
                    slice(&x),
                    slice_mut(&mut y),
                    slice_mut(&mut positions),
                    map,
                ));
            }
        }
        self.kept = (pass.mode == Mode::Train).then_some((x, positions));
        Ok(y)
    }

    fn backward(&mut self, dy: Tensor, _pass: &Pass) -> Result<Option<Tensor>> {
        let (x, positions) = kept(&mut self.kept, &self.name)?;
        let (mut dx, map, b) = (x.f_empty_like()?, map_of(&x), self.bias.as_ref());
        match engine(x.device()) {
            Some(on) => by_kind!(x.kind(), T => on_gpu::backward::<T>(
                &on,
                &self.rule,
                Input { a: device_slice(&x), bias: b.map(|b| device_slice(&b.weight)), map },
                device_slice(&dy),
                device_slice(&positions),
                &mut device_slice_mut(&mut dx),
            ))?,
            None => by_kind!(x.kind(), T => self.rule.backward::<T>(
                slice(&x),
                slice(&dy),
                slice(&positions),
                slice_mut(&mut dx),
                map,
            )),
        }
        if let Some(b) = &mut self.bias {
            bias::put_gradient(&dx, b)?;
        }
        Ok(Some(dx))
    }
}
