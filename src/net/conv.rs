//! Convolutions, channels last, by libtorch's kernels (oneDNN on CPUs, cuDNN on GPUs).
//!
//! The first layer has three input channels, which leaves vector and matrix units idle. Where a stride
//! allows it, the image is folded so that each `stride × stride` square becomes one pixel with all its
//! values as channels: conv1's 11×11 stride-4 filters over 3 channels become 3×3 stride-1 filters over
//! 48 (with a zero 12th row and column), the same sums at several times the speed.

use std::ops::Range;

use anyhow::Result;
use tch::Tensor;

use super::product::operand;
use super::{Layer, Mode, Pass, kept};
use crate::params::Param;
use crate::torch_ext::{ConvGeometry, InputGradient, convolution_backward};

/// A convolution, `[N, H, W, I]` to `[N, H', W', O]`.
pub(super) struct Conv {
    name: String,
    w: Param, // [O, I / groups, K, K]
    b: Param, // [O]
    geometry: ConvGeometry,
    /// Zeros on the right and at the bottom besides the geometry's.
    fill: i64,
    input: InputGradient,
    x: Option<Tensor>,
}

impl Conv {
    pub(super) fn new(
        name: String,
        w: Param,
        b: Param,
        geometry: ConvGeometry,
        input: InputGradient,
    ) -> Self {
        Self { name, w, b, geometry, fill: 0, input, x: None }
    }

    /// The same with `fill` more zeros on the right and at the bottom than on the other sides.
    pub(super) fn filled(self, fill: i64) -> Self {
        Self { fill, ..self }
    }

    /// How the input is folded, if it is worth it and nobody asks for its gradient.
    fn fold(&self) -> Option<Fold> {
        let size = self.w.weight.size();
        let worthwhile = self.geometry.stride > 1 && size[1] < 16 && self.geometry.groups == 1;
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

    /// The weights and geometry the kernel is called with.
    fn operands(&self) -> Result<(Tensor, ConvGeometry)> {
        let weight = operand(&self.w.weight)?;
        match self.fold() {
            Some(fold) => Ok((fold.weight(&weight)?, Fold::GEOMETRY)),
            None => Ok((weight, self.geometry)),
        }
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
        let (w, g) = self.operands()?;
        let (stride, padding) = ([g.stride; 2], [g.padding; 2]);
        let (image, b) = (nchw(&operand(&x)?)?, operand(&self.b.weight)?);
        let y = image.f_conv2d(&w, Some(&b), stride, padding, [1, 1], g.groups)?;
        let y = y.f_to_kind(x.kind())?;
        self.x = (pass.mode == Mode::Train).then_some(x);
        nhwc(&y)
    }

    fn backward(&mut self, dy: Tensor, _pass: &Pass) -> Result<Option<Tensor>> {
        let x = kept(&mut self.x, &self.name)?;
        let (w, geometry) = self.operands()?;
        let kind = dy.kind();
        let (dy, x) = (nchw(&operand(&dy)?)?, nchw(&operand(&x)?)?);
        let gradients = convolution_backward(&dy, &x, &w, geometry, self.input)?;
        let dw = match self.fold() {
            Some(fold) => fold.weight_gradient(&gradients.dw)?,
            None => gradients.dw,
        };
        self.w.grad.f_copy_(&dw)?;
        self.b.grad.f_copy_(&gradients.db)?;
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
        let ConvGeometry { stride: s, padding, .. } = self.geometry;
        let [n, h, w, c] = x.size()[..] else { unreachable!("images have four dimensions") };
        let padded = |side| side + 2 * padding + self.fill;
        let squares = |side| (padded(side) - self.kernel) / s + self.folded_kernel();
        let (rows, columns) = (squares(h), squares(w));
        // Negative numbers crop: pixels that no window reaches.
        let (below, right) = (rows * s - h - padding, columns * s - w - padding);
        let x = x.f_constant_pad_nd([0, 0, padding, right, padding, below])?;
        Ok(x.f_view([n, rows, s, columns, s, c])?.f_permute([0, 1, 3, 2, 4, 5])?.f_reshape([
            n,
            rows,
            columns,
            s * s * c,
        ])?)
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
