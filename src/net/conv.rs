//! Convolutions, channels last, by libtorch's kernels (oneDNN on CPUs, cuDNN on GPUs).
//!
//! The first layer has three input channels, which leaves vector and matrix units idle. Where a stride
//! allows it, the image is folded so that each `stride × stride` square becomes one pixel with all its
//! values as channels: conv1's 11×11 stride-4 filters over 3 channels become 3×3 stride-1 filters over
//! 48 (with a zero 12th row and column), the same sums at several times the speed.
//!
//! cuDNN takes groups apart, copies their channels out and back in, and computes each alone. Filters over all
//! channels that are zero where their group does not look give the same sums, and are faster although half
//! the products are with zeros (docs/results/gpu.md).

use std::ops::Range;

use anyhow::Result;
use tch::Tensor;

use super::pool::{map_of, size_of};
use super::product::operand;
use super::{Layer, Mode, Pass, kept};
use crate::cuda::{self, engine};
use crate::elements::{by_kind, device_slice, device_slice_mut, slice, slice_mut};
use crate::kernels::cuda::fold as on_gpu;
use crate::kernels::fold::Fold as Squares;
use crate::params::Param;
use crate::torch_ext::{BiasGradient, ConvGeometry, InputGradient, convolution_backward};

/// How the groups of a convolution are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Groups {
    /// As groups, by libtorch.
    Apart,
    /// By filters over all channels, with zeros where a group does not look.
    AsOne,
}

/// Which layer adds a convolution's bias in training, and computes its gradient. Otherwise it is always the
/// convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bias {
    /// The convolution.
    Here,
    /// The next one, in its own pass over the map.
    Next,
}

/// A convolution, `[N, H, W, I]` to `[N, H', W', O]`.
pub(super) struct Conv {
    name: String,
    w: Param, // [O, I / groups, K, K]
    b: Param, // [O]
    geometry: ConvGeometry,
    /// Zeros on the right and at the bottom besides the geometry's.
    fill: i64,
    input: InputGradient,
    groups: Groups,
    bias: Bias,
    /// The filters over all channels, if they are needed: between the groups they stay zero.
    as_one: Option<Tensor>,
    /// The input and the weights as the kernel was called with them.
    kept: Option<(Tensor, Tensor)>,
}

impl Conv {
    pub(super) fn new(
        name: String,
        w: Param,
        b: Param,
        geometry: ConvGeometry,
        input: InputGradient,
    ) -> Self {
        let (groups, bias) = (Groups::Apart, Bias::Here);
        Self { name, w, b, geometry, fill: 0, input, groups, bias, as_one: None, kept: None }
    }

    /// The same with `fill` more zeros on the right and at the bottom than on the other sides.
    pub(super) fn filled(self, fill: i64) -> Self {
        Self { fill, ..self }
    }

    /// The same with its groups computed in this way.
    pub(super) fn with_groups(self, groups: Groups) -> Self {
        Self { groups, ..self }
    }

    /// The same with its bias added there.
    pub(super) fn with_bias(self, bias: Bias) -> Self {
        Self { bias, ..self }
    }

    /// How the input is folded, if it is worth it and nobody asks for its gradient.
    fn fold(&self) -> Option<Fold> {
        let size = self.w.weight.size();
        let worthwhile = self.geometry.stride > 1
            && size[1] < 16
            && self.geometry.groups == 1
            && cuda::has_own_kernels(self.w.weight.device());
        (worthwhile && self.input == InputGradient::Unused).then(|| Fold {
            kernel: size[3],
            geometry: self.geometry,
            fill: self.fill,
        })
    }

    /// The gradient `[N, I, H, W]` without what belongs to the zeros of the fill.
    fn unfilled(&self, dx: &Tensor) -> Result<Tensor> {
        let [_, _, h, w] = dx.size()[..] else { unreachable!("images have four dimensions") };
        Ok(dx.f_narrow(2, 0, h - self.fill)?.f_narrow(3, 0, w - self.fill)?)
    }

    /// The weights the kernel is called with.
    fn weights(&mut self) -> Result<Tensor> {
        let weight = operand(&self.w.weight)?;
        match (self.fold(), self.groups) {
            (Some(fold), _) => fold.weight(&weight),
            (None, Groups::AsOne) => self.over_all_channels(&weight),
            (None, Groups::Apart) => Ok(weight),
        }
    }

    /// The geometry the kernel is called with.
    fn geometry(&self) -> ConvGeometry {
        match (self.fold(), self.groups) {
            (Some(_), _) => Fold::GEOMETRY,
            (None, Groups::AsOne) => ConvGeometry { groups: 1, ..self.geometry },
            (None, Groups::Apart) => self.geometry,
        }
    }

    /// `[O, I / groups, K, K]` to `[O, I, K, K]`.
    fn over_all_channels(&mut self, weight: &Tensor) -> Result<Tensor> {
        let [o, i, h, w] = weight.size()[..] else { unreachable!("filters have four dimensions") };
        let as_one = match self.as_one.take() {
            Some(as_one) => as_one,
            None => {
                let size = [o, h, w, i * self.geometry.groups];
                nchw(&Tensor::f_zeros(size, (weight.kind(), weight.device()))?)?
            }
        };
        for (group, weight) in weight.f_chunk(self.geometry.groups, 0)?.iter().enumerate() {
            self.seen_by(group as i64, &as_one)?.f_copy_(weight)?;
        }
        self.as_one = Some(as_one.shallow_clone());
        Ok(as_one)
    }

    /// The part of filters over all channels that belongs to a group and its channels.
    fn seen_by(&self, group: i64, as_one: &Tensor) -> Result<Tensor> {
        let [o, i, ..] = self.w.weight.size()[..] else { unreachable!("as the weights") };
        let filters = o / self.geometry.groups;
        Ok(as_one.f_narrow(0, group * filters, filters)?.f_narrow(1, group * i, i)?)
    }

    /// Puts the gradient of the weights that the kernel was called with into the arena.
    fn put_weight_gradient(&mut self, dw: &Tensor) -> Result<()> {
        match (self.fold(), self.groups) {
            (Some(fold), _) => self.w.grad.f_copy_(&fold.weight_gradient(dw)?)?,
            (None, Groups::AsOne) => {
                for (group, grad) in
                    self.w.grad.f_chunk(self.geometry.groups, 0)?.iter_mut().enumerate()
                {
                    grad.f_copy_(&self.seen_by(group as i64, dw)?)?;
                }
                return Ok(());
            }
            (None, Groups::Apart) => self.w.grad.f_copy_(dw)?,
        };
        Ok(())
    }
}

/// NHWC memory under libtorch's NCHW indices; no data moves.
fn nchw(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_permute([0, 3, 1, 2])?)
}

/// The way back; moves data only if a kernel did not answer in channels-last memory.
fn nhwc(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_permute([0, 2, 3, 1])?.f_contiguous()?)
}

impl Layer for Conv {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, x: Tensor, pass: &Pass) -> Result<Tensor> {
        let x = match self.fold() {
            Some(fold) => fold.input(&x)?,
            None if self.fill > 0 => x.f_constant_pad_nd([0, 0, 0, self.fill, 0, self.fill])?,
            None => x,
        };
        let (w, g) = (self.weights()?, self.geometry());
        let (stride, padding) = ([g.stride; 2], [g.padding; 2]);
        let here = self.bias == Bias::Here || pass.mode == Mode::Eval;
        let b = here.then(|| operand(&self.b.weight)).transpose()?;
        let image = nchw(&operand(&x)?)?;
        let y = image.f_conv2d(&w, b.as_ref(), stride, padding, [1, 1], g.groups)?;
        let y = y.f_to_kind(x.kind())?;
        self.kept = (pass.mode == Mode::Train).then_some((x, w));
        nhwc(&y)
    }

    fn backward(&mut self, dy: Tensor, _pass: &Pass) -> Result<Option<Tensor>> {
        let (x, w) = kept(&mut self.kept, &self.name)?;
        let kind = dy.kind();
        let (dy, x) = (nchw(&operand(&dy)?)?, nchw(&operand(&x)?)?);
        let bias = match self.bias {
            Bias::Here => BiasGradient::Needed,
            Bias::Next => BiasGradient::Unused,
        };
        let gradients = convolution_backward(&dy, &x, &w, self.geometry(), self.input, bias)?;
        self.put_weight_gradient(&gradients.dw)?;
        if let Some(db) = &gradients.db {
            self.b.grad.f_copy_(db)?;
        }
        let dx = |dx: Tensor| nhwc(&self.unfilled(&dx.f_to_kind(kind)?)?);
        gradients.dx.map(dx).transpose()
    }

    fn params(&self) -> Option<Range<usize>> {
        Some(self.w.range.start..self.b.range.end)
    }
}

/// Space to depth for a strided convolution.
struct Fold {
    kernel: i64,
    geometry: ConvGeometry,
    fill: i64,
}

impl Fold {
    /// What is left of a strided, padded convolution once its input is folded.
    const GEOMETRY: ConvGeometry = ConvGeometry { stride: 1, padding: 0, groups: 1 };

    /// The kernel's side rounded up to whole squares.
    fn folded_kernel(&self) -> i64 {
        (self.kernel + self.geometry.stride - 1) / self.geometry.stride
    }

    /// `[N, H, W, C]` to `[N, H', W', s * s * C]`, just large enough for every window.
    fn input(&self, x: &Tensor) -> Result<Tensor> {
        let ConvGeometry { stride, padding, .. } = self.geometry;
        let map = map_of(x);
        let squares = |side: usize| {
            let padded = side as i64 + 2 * padding + self.fill;
            ((padded - self.kernel) / stride + self.folded_kernel()) as usize
        };
        let (rows, columns) = (squares(map.height), squares(map.width));
        let (stride, padding) = (stride as usize, padding as usize);
        let rule = Squares { stride, padding, rows, columns };
        let mut folded = Tensor::f_empty(size_of(rule.output(map)), (x.kind(), x.device()))?;
        match engine(x.device()) {
            Some(on) => by_kind!(x.kind(), T => on_gpu::fold::<T>(
                &on,
                &rule,
                device_slice(x),
                &mut device_slice_mut(&mut folded),
                map,
            ))?,
            None => by_kind!(x.kind(), T => {
                rule.run::<T>(slice(x), slice_mut(&mut folded), map);
            }),
        }
        Ok(folded)
    }

    /// `[O, C, K, K]` to `[O, s * s * C, K', K']`, channels last, zeros where the square is larger.
    fn weight(&self, w: &Tensor) -> Result<Tensor> {
        let (s, k) = (self.geometry.stride, self.folded_kernel());
        let [o, c, ..] = w.size()[..] else { unreachable!("filters have four dimensions") };
        let more = k * s - self.kernel;
        let folded = w
            .f_constant_pad_nd([0, more, 0, more])?
            .f_reshape([o, c, k, s, k, s])?
            .f_permute([0, 2, 4, 3, 5, 1])? // [O, K', K', s, s, C]
            .f_reshape([o, k, k, s * s * c])?;
        nchw(&folded)
    }

    /// The inverse of [`Fold::weight`], for its gradient.
    fn weight_gradient(&self, dw: &Tensor) -> Result<Tensor> {
        let (s, k) = (self.geometry.stride, self.folded_kernel());
        let [o, folded_channels, ..] = dw.size()[..] else { unreachable!("as the weights") };
        let c = folded_channels / (s * s);
        Ok(dw
            .f_permute([0, 2, 3, 1])?
            .f_reshape([o, k, k, s, s, c])?
            .f_permute([0, 5, 1, 3, 2, 4])? // [O, C, K', s, K', s]
            .f_reshape([o, c, k * s, k * s])?
            .f_narrow(2, 0, self.kernel)?
            .f_narrow(3, 0, self.kernel)?)
    }
}

#[cfg(test)]
mod tests;
