//! Fully-connected layers, `y = x wᵀ + b`.

use std::ops::Range;

use anyhow::Result;
use tch::Tensor;

use super::product::operand;
use super::{Layer, Mode, Pass, bias, kept};
use crate::params::Param;

/// A fully-connected layer, `[N, I]` to `[N, O]`.
pub(super) struct Linear {
    name: String,
    w: Param, // [O, I]
    b: Param, // [O]
    x: Option<Tensor>,
}

impl Linear {
    pub(super) fn new(name: String, w: Param, b: Param) -> Self {
        Self { name, w, b, x: None }
    }
}

impl Layer for Linear {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, x: Tensor, pass: &Pass) -> Result<Tensor> {
        let (w, b) = (operand(&self.w.weight)?, operand(&self.b.weight)?);
        let y = operand(&x)?.f_linear(&w, Some(&b))?.f_to_kind(x.kind())?;
        self.x = (pass.mode == Mode::Train).then_some(x);
        Ok(y)
    }

    fn backward(&mut self, dy: Tensor, _pass: &Pass) -> Result<Option<Tensor>> {
        let x = kept(&mut self.x, &self.name)?;
        let kind = dy.kind();
        let (dy, x) = (operand(&dy)?, operand(&x)?);
        if dy.kind() == kind {
            // Straight into the arena: fc6's gradient alone is 151 MB in fp32.
            let _ = dy.f_tr()?.f_mm_out(&self.w.grad, &x)?;
        } else {
            self.w.grad.f_copy_(&dy.f_tr()?.f_mm(&x)?)?;
        }
        bias::put_gradient(&dy, &self.b, 1)?;
        Ok(Some(dy.f_mm(&operand(&self.w.weight)?)?.f_to_kind(kind)?))
    }

    fn params(&self) -> Option<Range<usize>> {
        Some(self.w.range.start..self.b.range.end)
    }
}
