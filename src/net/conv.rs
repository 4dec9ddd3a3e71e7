//! Convolutions, channels last, by libtorch's kernels (oneDNN on CPUs, cuDNN on GPUs).
//!
//! Some are faster in another form, with the same sums: on a folded input, with their groups as one, or of maps that
//! are stacked by groups. The layer behind a convolution may add its bias.

mod as_one;
mod fold;
mod stacked;

use std::ops::Range;

use anyhow::Result;
use tch::{Device, Tensor};

use self::as_one::AsOne;
use self::fold::Fold;
use self::stacked::Stacked;
use super::product::{is_full_fp32, operand};
use super::{Layer, Mode, Pass, bias, kept};
use crate::cuda;
use crate::kernels::stacks::Stacks;
use crate::params::Param;
use crate::torch_ext::{BiasGradient, ConvGeometry, InputGradient, convolution_backward};

/// How the groups of a convolution are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Groups {
    /// As libtorch does it.
    Grouped,
    /// By filters over all channels.
    AsOne,
    /// Each on maps of its own, which are stacked, or the one there is on its map. Without a stride only, and
    /// without a fill.
    Stacked,
}

/// What the kernel is called with.
enum Form {
    /// The convolution as it is.
    Plain,
    /// A convolution without a stride on a folded input.
    Folded(Fold),
    /// A convolution of one group.
    AsOne(AsOne),
    /// A convolution for each group, of which there may be one.
    Stacked(Stacked),
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
    form: Form,
    bias: Bias,
    /// The input and the weights that the kernel was called with.
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
        // Few channels leave a CPU's vector units and a GPU's tensor cores idle. A folded input has no gradient, and
        // folding takes a kernel of ours.
        let device = w.weight.device();
        let folds = geometry.stride > 1
            && geometry.groups == 1
            && w.weight.size()[1] < 16
            && input == InputGradient::Unused
            && cuda::runs_own_kernels(device)
            && (device == Device::Cpu || !is_full_fp32(w.weight.kind()));
        let form = match folds {
            true => Form::Folded(Fold { kernel: w.weight.size()[3], geometry, fill: 0 }),
            false => Form::Plain,
        };
        Self { name, w, b, geometry, fill: 0, input, form, bias: Bias::Here, kept: None }
    }

    /// The same with `fill` more zeros on the right and at the bottom than on the other sides.
    pub(super) fn filled(mut self, fill: i64) -> Self {
        self.fill = fill;
        if let Form::Folded(fold) = &mut self.form {
            fold.fill = fill;
        }
        self
    }

    /// The same with its groups computed in this way.
    pub(super) fn with_groups(mut self, groups: Groups) -> Self {
        let geometry = self.geometry;
        match groups {
            Groups::AsOne if geometry.groups > 1 => {
                self.form = Form::AsOne(AsOne::of(geometry.groups));
            }
            Groups::Stacked => self.form = Form::Stacked(Stacked { geometry }),
            _ => {}
        }
        self
    }

    /// The same with its bias added there.
    pub(super) fn with_bias(self, bias: Bias) -> Self {
        Self { bias, ..self }
    }

    /// The gradient `[N, I, H, W]` without what belongs to the zeros of the fill.
    fn unfilled(&self, dx: &Tensor) -> Result<Tensor> {
        let [_, _, h, w] = dx.size()[..] else { unreachable!("images have four dimensions") };
        Ok(dx.f_narrow(2, 0, h - self.fill)?.f_narrow(3, 0, w - self.fill)?)
    }

    /// The weights the kernel is called with.
    fn weights(&mut self) -> Result<Tensor> {
        let w = operand(&self.w.weight)?;
        match &mut self.form {
            Form::Plain | Form::Stacked(_) => Ok(w),
            Form::Folded(fold) => fold.weights(&w),
            Form::AsOne(as_one) => as_one.weights(&w),
        }
    }

    /// The geometry the kernel is called with.
    fn geometry(&self) -> ConvGeometry {
        match self.form {
            Form::Plain | Form::Stacked(_) => self.geometry,
            Form::Folded(_) => Fold::GEOMETRY,
            Form::AsOne(_) => ConvGeometry { groups: 1, ..self.geometry },
        }
    }

    /// Fills the arena's gradient from that of the weights the kernel was called with.
    fn put_weight_gradient(&mut self, dw: &Tensor) -> Result<()> {
        match &self.form {
            Form::Plain | Form::Stacked(_) => self.w.grad.f_copy_(dw)?,
            Form::Folded(fold) => self.w.grad.f_copy_(&fold.weight_gradient(dw)?)?,
            Form::AsOne(as_one) => return as_one.put_weight_gradient(dw, &self.w.grad),
        };
        Ok(())
    }

    /// All gradients but that of the bias, of stacked maps; that of the input is returned.
    fn backward_stacked(
        &self,
        stacked: Stacked,
        dy: &Tensor,
        x: &Tensor,
        w: &Tensor,
    ) -> Result<Option<Tensor>> {
        stacked.put_weight_gradient(dy, x, w, &self.w.grad)?;
        let needed = self.input == InputGradient::Needed;
        needed.then(|| stacked.input_gradient(dy, w)).transpose()
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
        let x = match &self.form {
            Form::Folded(fold) => fold.input(&x)?,
            _ if self.fill > 0 => x.f_constant_pad_nd([0, 0, 0, self.fill, 0, self.fill])?,
            _ => x,
        };
        let (w, g) = (self.weights()?, self.geometry());
        let here = self.bias == Bias::Here || pass.mode == Mode::Eval;
        let y = if let Form::Stacked(stacked) = &self.form {
            let mut y = stacked.forward(&x, &w)?;
            if here {
                bias::add(&mut y, &self.b, g.groups as usize)?;
            }
            y
        } else {
            let (stride, padding) = ([g.stride; 2], [g.padding; 2]);
            let b = here.then(|| operand(&self.b.weight)).transpose()?;
            let image = nchw(&operand(&x)?)?;
            let y = image.f_conv2d(&w, b.as_ref(), stride, padding, [1, 1], g.groups)?;
            nhwc(&y.f_to_kind(x.kind())?)?
        };
        self.kept = (pass.mode == Mode::Train).then_some((x, w));
        Ok(y)
    }

    fn backward(&mut self, dy: Tensor, _pass: &Pass) -> Result<Option<Tensor>> {
        let (x, w) = kept(&mut self.kept, &self.name)?;
        if let Form::Stacked(stacked) = self.form {
            if self.bias == Bias::Here {
                bias::put_gradient(&dy, &self.b, self.geometry.groups as usize)?;
            }
            return self.backward_stacked(stacked, &dy, &x, &w);
        }
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

    fn stacks(&self) -> Stacks {
        match self.form {
            Form::Stacked(Stacked { geometry }) => {
                let groups = geometry.groups as usize;
                Stacks { input: groups, output: groups }
            }
            _ => Stacks::ONE,
        }
    }
}

#[cfg(test)]
mod tests;
