//! The groups of a convolution each as a convolution of its own, of stacked maps.
//!
//! cuDNN's grouped convolutions copy channels out and back in, and filters over all channels multiply by zeros; these
//! do neither.

use anyhow::Result;
use tch::Tensor;

use super::{nchw, operand};
use crate::net::stack::by_stack;
use crate::torch_ext::{
    BiasGradient, ConvGeometry, InputGradient, convolution_backward, convolution_into,
};

/// A convolution whose input and output have a stack for each of its groups.
#[derive(Clone, Copy)]
pub(super) struct Stacked {
    /// Of the convolution as it is.
    pub(super) geometry: ConvGeometry,
}

impl Stacked {
    /// `[S * N, H, W, I / S]` to `[S * N, H', W', O / S]`, by filters `[O, I / S, K, K]`.
    pub(super) fn forward(&self, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        let ConvGeometry { stride, padding, groups } = self.geometry;
        let (images, height, width, _) = x.size4()?;
        let (filters, _, kernel, _) = w.size4()?;
        let side = |side: i64| (side + 2 * padding - kernel) / stride + 1;
        let size = [images, side(height), side(width), filters / groups];
        let y = Tensor::f_empty(size, (x.kind(), x.device()))?;
        for ((x, w), y) in
            self.groups_of(x)?.iter().zip(self.groups_of(w)?).zip(self.groups_of(&y)?)
        {
            convolution_into(&nchw(&operand(x)?)?, &w, self.of_a_group(), &mut nchw(&y)?)?;
        }
        Ok(y)
    }

    /// The gradient of the input, `[S * N, H, W, I / S]`. Of a convolution without a stride it is the convolution of the
    /// output's gradient by the filters turned around, which cuDNN writes where it belongs.
    pub(super) fn input_gradient(&self, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
        let ConvGeometry { padding, groups, .. } = self.geometry;
        let (filters, inputs, kernel, _) = w.size4()?;
        let of_groups = w.f_view([groups, filters / groups, inputs, kernel, kernel])?;
        let turned = of_groups.f_transpose(1, 2)?.f_flip([3, 4])?;
        let turned = turned.f_reshape([groups * inputs, filters / groups, kernel, kernel])?;
        let geometry = ConvGeometry { padding: kernel - 1 - padding, ..self.geometry };
        Self { geometry }.forward(dy, &turned)
    }

    /// Fills `dw`, `[O, I / S, K, K]`.
    pub(super) fn put_weight_gradient(
        &self,
        dy: &Tensor,
        x: &Tensor,
        w: &Tensor,
        dw: &Tensor,
    ) -> Result<()> {
        let given = self.groups_of(dy)?.into_iter().zip(self.groups_of(x)?).zip(self.groups_of(w)?);
        for (((dy, x), w), mut dw) in given.zip(self.groups_of(dw)?) {
            let (dy, x) = (nchw(&operand(&dy)?)?, nchw(&operand(&x)?)?);
            let (input, bias) = (InputGradient::Unused, BiasGradient::Unused);
            let gradients = convolution_backward(&dy, &x, &w, self.of_a_group(), input, bias)?;
            dw.f_copy_(&gradients.dw)?;
        }
        Ok(())
    }

    fn of_a_group(&self) -> ConvGeometry {
        ConvGeometry { groups: 1, ..self.geometry }
    }

    /// Maps by stacks, or filters by groups.
    fn groups_of(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        by_stack(x, self.geometry.groups as usize)
    }
}
