//! Dropout (paper §4.2), with masks that are a function of where a unit is, not of who computes it.
//!
//! A mask bit is a hash of (seed, step, layer, position in the global batch, unit), so replicas,
//! columns and resumed runs draw the same masks, and backward draws them again instead of keeping them.
//! Survivors are divided by their share in training (doubled at the paper's rate of 0.5) instead of halved in the
//! test, as is usual today: the expectation, and the function learned, are the same.

use std::ops::Range;

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::{Images, Layer, Mode, Pass};
use crate::cuda::engine;
use crate::elements::{by_kind, device_slice, device_slice_mut, slice, slice_mut};
use crate::kernels::cuda::{self, Engine};
use crate::kernels::dropout::Dropout as Rule;

/// A dropout layer over `[N, units]`.
pub(super) struct Dropout {
    name: String,
    rule: Rule,
    /// The canonical index of this rank's first unit.
    first_unit: u64,
    images: Images,
}

impl Dropout {
    pub(super) fn new(name: String, rate: f64, first_unit: u64, images: Images) -> Self {
        Self { name, rule: Rule { rate, scale: 1.0 / (1.0 - rate) }, first_unit, images }
    }

    fn apply(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        if let Some(on) = engine(x.device()) {
            return self.apply_on_gpu(&on, x, pass);
        }
        if x.device() != Device::Cpu {
            let ones = Tensor::f_ones(x.size(), (Kind::Float, Device::Cpu))?;
            let dropped = self.apply(&ones, pass)?.f_eq(0.0)?.f_to_device(x.device())?;
            return Ok(x.f_mul_scalar(self.rule.scale)?.f_masked_fill(&dropped, 0.0)?);
        }
        let x = x.f_contiguous()?;
        let mut y = x.f_empty_like()?;
        let (units, layer) = (self.units(&x), pass.dropout.with_name(&self.name));
        let first = self.first_image(pass);
        let key = |row: usize| layer.with(first + row as u64);
        by_kind!(x.kind(), T => self.rule.apply::<T>(slice(&x), slice_mut(&mut y), units, key));
        Ok(y)
    }

    fn apply_on_gpu(&self, on: &dyn Engine, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let x = x.f_contiguous()?;
        let mut y = x.f_empty_like()?;
        let rows = (pass.dropout.with_name(&self.name), self.first_image(pass));
        by_kind!(x.kind(), T => cuda::dropout::apply::<T>(
            on,
            &self.rule,
            device_slice(&x),
            &mut device_slice_mut(&mut y),
            self.units(&x),
            rows,
        ))?;
        Ok(y)
    }

    /// The position of the first row of `x` within the global batch.
    fn first_image(&self, pass: &Pass) -> u64 {
        if self.images == Images::Batch { 0 } else { pass.first }
    }

    /// The canonical indices of the units of `x`.
    fn units(&self, x: &Tensor) -> Range<u64> {
        self.first_unit..self.first_unit + x.size()[1] as u64
    }
}

impl Layer for Dropout {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, x: Tensor, pass: &Pass) -> Result<Tensor> {
        if pass.mode == Mode::Eval || self.rule.rate == 0.0 {
            return Ok(x);
        }
        self.apply(&x, pass)
    }

    fn backward(&mut self, dy: Tensor, pass: &Pass) -> Result<Option<Tensor>> {
        if self.rule.rate == 0.0 {
            return Ok(Some(dy));
        }
        self.apply(&dy, pass).map(Some)
    }
}
