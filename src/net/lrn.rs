//! Local response normalisation across channels, within each column (paper §3.3).

use anyhow::Result;
use tch::{Device, Tensor};

use super::{Layer, Mode, Pass, kept};
use crate::cuda::engine;
use crate::elements::{by_kind, device_slice, device_slice_mut, slice, slice_mut};
use crate::kernels;
use crate::kernels::cuda::Engine;

/// An LRN layer over `[N, H, W, C]`; the window never crosses one of the `groups` of channels.
pub(super) struct Lrn {
    name: String,
    rule: kernels::lrn::Lrn,
    groups: usize,
    x: Option<Tensor>,
}

impl Lrn {
    pub(super) fn new(name: String, rule: kernels::lrn::Lrn, groups: usize) -> Self {
        Self { name, rule, groups, x: None }
    }

    fn on_cpu(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = x.f_empty_like()?;
        let (channels, groups) = (channels(x), self.groups);
        by_kind!(x.kind(), T => {
            self.rule.forward::<T>(slice(x), slice_mut(&mut y), channels, groups)
        });
        Ok(y)
    }

    fn gradient_on_cpu(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let mut dx = x.f_empty_like()?;
        let (channels, groups) = (channels(x), self.groups);
        by_kind!(x.kind(), T => {
            self.rule.backward::<T>(slice(x), slice(dy), slice_mut(&mut dx), channels, groups)
        });
        Ok(dx)
    }

    fn on_gpu(&self, on: &dyn Engine, x: &Tensor) -> Result<Tensor> {
        let mut y = x.f_empty_like()?;
        by_kind!(x.kind(), T => kernels::cuda::lrn::forward::<T>(
            on,
            &self.rule,
            device_slice(x),
            &mut device_slice_mut(&mut y),
            channels(x),
            self.groups,
        ))?;
        Ok(y)
    }

    fn gradient_on_gpu(&self, on: &dyn Engine, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let mut dx = x.f_empty_like()?;
        by_kind!(x.kind(), T => kernels::cuda::lrn::backward::<T>(
            on,
            &self.rule,
            device_slice(x),
            device_slice(dy),
            &mut device_slice_mut(&mut dx),
            channels(x),
            self.groups,
        ))?;
        Ok(dx)
    }

    /// `k + α Σ a²` by libtorch, `[N, H, W, G, C / G]`: the twin for devices without our kernel.
    fn denominators(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.window_sum(&self.grouped(x)?.f_square()?)? * self.rule.alpha + self.rule.k)
    }

    /// `[.., C]` to `[.., G, C / G]`.
    fn grouped(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.size();
        let channels = shape.pop().unwrap_or(0);
        let groups = self.groups as i64;
        shape.extend([groups, channels / groups]);
        Ok(x.f_view(&shape[..])?)
    }

    /// The sum over the window around each element of the last dimension.
    fn window_sum(&self, x: &Tensor) -> Result<Tensor> {
        let (half, n) = ((self.rule.size / 2) as i64, x.size().last().copied().unwrap_or(0));
        let padded = x.f_constant_pad_nd([half, half])?;
        let mut sum = padded.f_narrow(-1, 0, n)?;
        for shift in 1..self.rule.size as i64 {
            sum = sum.f_add(&padded.f_narrow(-1, shift, n)?)?;
        }
        Ok(sum)
    }

    fn torch_forward(&self, x: &Tensor) -> Result<Tensor> {
        let scale = self.denominators(x)?.f_pow_tensor_scalar(-self.rule.beta)?;
        Ok(x.f_mul(&scale.f_view(&x.size()[..])?)?)
    }

    fn torch_backward(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let d = self.denominators(x)?;
        let (a, dy) = (self.grouped(x)?, self.grouped(dy)?);
        let ratio = (&dy * &a).f_mul(&d.f_pow_tensor_scalar(-self.rule.beta - 1.0)?)?;
        let through_window = self.window_sum(&ratio)? * (2.0 * self.rule.alpha * self.rule.beta);
        let dx = dy.f_mul(&d.f_pow_tensor_scalar(-self.rule.beta)?)? - a.f_mul(&through_window)?;
        Ok(dx.f_view(&x.size()[..])?)
    }
}

impl Layer for Lrn {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, x: Tensor, pass: &Pass) -> Result<Tensor> {
        let y = match (x.device(), engine(x.device())) {
            (Device::Cpu, _) => self.on_cpu(&x)?,
            (_, Some(on)) => self.on_gpu(&on, &x)?,
            _ => self.torch_forward(&x)?,
        };
        self.x = (pass.mode == Mode::Train).then_some(x);
        Ok(y)
    }

    fn backward(&mut self, dy: Tensor, _pass: &Pass) -> Result<Option<Tensor>> {
        let x = kept(&mut self.x, &self.name)?;
        match (x.device(), engine(x.device())) {
            (Device::Cpu, _) => self.gradient_on_cpu(&x, &dy),
            (_, Some(on)) => self.gradient_on_gpu(&on, &x, &dy),
            _ => self.torch_backward(&x, &dy),
        }
        .map(Some)
    }
}

/// The last dimension.
fn channels(x: &Tensor) -> usize {
    x.size().last().copied().unwrap_or(0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn the_kernel_and_libtorchs_operations_agree() {
        let layer = Lrn::new("norm".into(), kernels::lrn::Lrn::PAPER, 2);
        let options = (Kind::Double, Device::Cpu);
        let x = Tensor::randn([2, 3, 3, 14], options) * 50.0;
        let dy = Tensor::randn([2, 3, 3, 14], options);
        let (mut y, mut dx) = (x.empty_like(), x.empty_like());
        layer.rule.forward::<f64>(slice(&x), slice_mut(&mut y), 14, 2);
        layer.rule.backward::<f64>(slice(&x), slice(&dy), slice_mut(&mut dx), 14, 2);
        let far = |a: Tensor, b: Tensor| (a - b).abs().max().double_value(&[]);
        assert!(far(layer.torch_forward(&x).expect("shapes agree"), y) < 1e-12);
        assert!(far(layer.torch_backward(&x, &dy).expect("shapes agree"), dx) < 1e-12);
    }
}
