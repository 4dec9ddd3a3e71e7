//! Overlapping max pooling: windows of 3 at a stride of 2 (paper §3.4).

use anyhow::Result;
use tch::Tensor;

use super::{Layer, Mode, Pass, kept};

/// A max-pooling layer, `[N, H, W, C]` to `[N, H', W', C]`, without padding.
pub(super) struct MaxPool {
    name: String,
    kernel: i64,
    stride: i64,
    kept: Option<(Tensor, Tensor)>,
}

impl MaxPool {
    pub(super) fn new(name: String, kernel: i64, stride: i64) -> Self {
        Self { name, kernel, stride, kept: None }
    }
}

impl Layer for MaxPool {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, x: Tensor, pass: &Pass) -> Result<Tensor> {
        let x = x.f_permute([0, 3, 1, 2])?;
        let (kernel, stride) = ([self.kernel; 2], [self.stride; 2]);
        let (y, indices) = x.f_max_pool2d_with_indices(kernel, stride, [0, 0], [1, 1], false)?;
        self.kept = (pass.mode == Mode::Train).then_some((x, indices));
        Ok(y.f_permute([0, 2, 3, 1])?.f_contiguous()?)
    }

    fn backward(&mut self, dy: Tensor, _pass: &Pass) -> Result<Option<Tensor>> {
        let (x, indices) = kept(&mut self.kept, &self.name)?;
        let dx = dy.f_permute([0, 3, 1, 2])?.f_max_pool2d_with_indices_backward(
            &x,
            [self.kernel; 2],
            [self.stride; 2],
            [0, 0],
            [1, 1],
            false,
            &indices,
        )?;
        Ok(Some(dx.f_permute([0, 2, 3, 1])?.f_contiguous()?))
    }
}
