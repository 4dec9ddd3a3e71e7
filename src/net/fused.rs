//! ReLU, LRN and pooling in one pass over a convolution's output.
//!
//! The three layers are bound by memory; together they read the map once, write the pooled map once and
//! keep one byte per output. Bit for bit equal to the layers one after another. The convolution may leave its
//! bias to them too.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::pool::{map_of, size_of};
use super::stack::{side_by_side, size_in_stacks, stack, unstack};
use super::{Layer, Mode, Pass, bias, kept};
use crate::cuda::engine;
use crate::elements::{Element, by_kind, device_slice, device_slice_mut, slice, slice_mut};
use crate::kernels::cuda::relu_lrn_pool::{self as on_gpu, Input};
use crate::kernels::relu_lrn_pool::ReluLrnPool as Rule;
use crate::kernels::stacks::Stacks;
use crate::params::Param;

/// `[N, H, W, C]` before the ReLU to `[N, H', W', C]` after the pooling, or either in stacks.
pub(super) struct ReluLrnPool {
    name: String,
    rule: Rule,
    /// What the convolution leaves to this layer in training.
    bias: Option<Param>,
    stacks: Stacks,
    /// The input and where in its window each output came from.
    kept: Option<(Tensor, Tensor)>,
}

impl ReluLrnPool {
    pub(super) fn new(name: String, rule: Rule, bias: Option<Param>) -> Self {
        Self { name, rule, bias, stacks: Stacks::ONE, kept: None }
    }

    /// The same between layers whose channels lie so.
    pub(super) fn in_stacks(self, stacks: Stacks) -> Self {
        Self { stacks, ..self }
    }

    fn input<'a, T: Element>(&self, x: &'a Tensor, bias: Option<&'a Param>) -> Input<'a, T> {
        let (bias, map) =
            (bias.map(|b| device_slice(&b.weight)), side_by_side(x, self.stacks.input));
        Input { a: device_slice(x), bias, map, stacks: self.stacks }
    }

    /// The gradient of the activations `x` of which `dy` and `positions` are, by the CPU's kernel.
    fn backward_on_cpu(&self, x: Tensor, dy: Tensor, positions: Tensor) -> Result<Tensor> {
        let Stacks { input, output } = self.stacks;
        let (x, dy) = (unstack(x, input)?, unstack(dy, output)?);
        let (positions, mut dx) = (unstack(positions, output)?, x.f_empty_like()?);
        by_kind!(x.kind(), T => self.rule.backward::<T>(
            slice(&x),
            slice(&dy),
            slice(&positions),
            slice_mut(&mut dx),
            map_of(&x),
        ));
        stack(dx, input)
    }
}

impl Layer for ReluLrnPool {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, mut x: Tensor, pass: &Pass) -> Result<Tensor> {
        let map = side_by_side(&x, self.stacks.input);
        let lacking = self.bias.as_ref().filter(|_| pass.mode == Mode::Train);
        let size = size_of(self.rule.pool.output(map));
        let mut y = Tensor::f_empty(size, (x.kind(), x.device()))?;
        let mut positions = Tensor::f_empty(size, (Kind::Uint8, x.device()))?;
        match engine(x.device()) {
            Some(on) => {
                let size = size_in_stacks(&y, self.stacks.output)?;
                (y, positions) = (y.f_view(size)?, positions.f_view(size)?);
                by_kind!(x.kind(), T => on_gpu::forward::<T>(
                    &on,
                    &self.rule,
                    self.input(&x, lacking),
                    &mut device_slice_mut(&mut y),
                    &mut device_slice_mut(&mut positions),
                ))?;
            }
            None => {
                let Stacks { input, output } = self.stacks;
                if let Some(b) = lacking {
                    bias::add(&mut x, b, input)?;
                }
                let a = unstack(x.shallow_clone(), input)?;
                by_kind!(x.kind(), T => self.rule.forward::<T>(
                    slice(&a),
                    slice_mut(&mut y),
                    slice_mut(&mut positions),
                    map,
                ));
                (y, positions) = (stack(y, output)?, stack(positions, output)?);
            }
        }
        self.kept = (pass.mode == Mode::Train).then_some((x, positions));
        Ok(y)
    }

    fn backward(&mut self, dy: Tensor, _pass: &Pass) -> Result<Option<Tensor>> {
        let (x, positions) = kept(&mut self.kept, &self.name)?;
        let dx = match engine(x.device()) {
            Some(on) => {
                let mut dx = x.f_empty_like()?;
                by_kind!(x.kind(), T => on_gpu::backward::<T>(
                    &on,
                    &self.rule,
                    self.input(&x, self.bias.as_ref()),
                    device_slice(&dy),
                    device_slice(&positions),
                    &mut device_slice_mut(&mut dx),
                ))?;
                dx
            }
            None => self.backward_on_cpu(x, dy, positions)?,
        };
        if let Some(b) = &self.bias {
            bias::put_gradient(&dx, b, self.stacks.input)?;
        }
        Ok(Some(dx))
    }

    fn stacks(&self) -> Stacks {
        self.stacks
    }
}
