//! Fully-connected layers, `y = x wᵀ + b`.

use std::ops::Range;

use anyhow::Result;
use tch::{Kind, Tensor};

use super::{Layer, Mode, Pass, kept};
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
        let y = x.f_linear(&self.w.weight, Some(&self.b.weight))?;
        self.x = (pass.mode == Mode::Train).then_some(x);
        Ok(y)
    }

    fn backward(&mut self, dy: Tensor, _pass: &Pass) -> Result<Option<Tensor>> {
        let x = kept(&mut self.x, &self.name)?;
        // Straight into the arena: fc6's gradient alone is 151 MB in fp32.
        let _ = dy.f_tr()?.f_mm_out(&self.w.grad, &x)?;
        let db = dy.f_sum_dim_intlist(&[0i64][..], false, None::<Kind>)?;
        self.b.grad.f_copy_(&db)?;
        Ok(Some(dy.f_mm(&self.w.weight)?))
    }

    fn params(&self) -> Option<Range<usize>> {
        Some(self.w.range.start..self.b.range.end)
    }
}
