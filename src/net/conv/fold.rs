//! A strided convolution over few channels as one without a stride over many.
//!
//! The first layer has three input channels, which leaves vector and matrix units idle. Each `stride × stride`
//! square of the image becomes one pixel with all its values as channels: conv1's 11×11 stride-4 filters over 3
//! channels become 3×3 stride-1 filters over 48 (with a zero 12th row and column), the same sums at several times
//! the speed.

use anyhow::Result;
use tch::Tensor;

use super::nchw;
use crate::cuda::engine;
use crate::elements::{by_kind, device_slice, device_slice_mut, slice, slice_mut};
use crate::kernels::cuda::fold as on_gpu;
use crate::kernels::fold::Fold as Squares;
use crate::net::pool::{map_of, size_of};
use crate::torch_ext::ConvGeometry;

/// How a strided convolution is folded.
pub(super) struct Fold {
    /// The side of its filters.
    pub(super) kernel: i64,
    /// Its geometry.
    pub(super) geometry: ConvGeometry,
    /// Zeros on the right and at the bottom besides the geometry's.
    pub(super) fill: i64,
}

impl Fold {
    /// What is left of a strided, padded convolution once its input is folded.
    pub(super) const GEOMETRY: ConvGeometry = ConvGeometry { stride: 1, padding: 0, groups: 1 };

    /// The kernel's side rounded up to whole squares.
    fn folded_kernel(&self) -> i64 {
        (self.kernel + self.geometry.stride - 1) / self.geometry.stride
    }

    /// `[N, H, W, C]` to `[N, H', W', s * s * C]`, just large enough for every window.
    pub(super) fn input(&self, x: &Tensor) -> Result<Tensor> {
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
    pub(super) fn weights(&self, w: &Tensor) -> Result<Tensor> {
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

    /// The inverse of [`Fold::weights`], for its gradient.
    pub(super) fn weight_gradient(&self, dw: &Tensor) -> Result<Tensor> {
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
