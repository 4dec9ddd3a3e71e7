//! Rectified linear units, `max(0, x)` (paper §3.1), in place.

use anyhow::Result;
use tch::Tensor;

use super::{Layer, Mode, Pass, kept};

/// A ReLU layer. The sign of the output is all that backward needs.
pub(super) struct Relu {
    name: String,
    y: Option<Tensor>,
}

impl Relu {
    pub(super) fn new(name: String) -> Self {
        Self { name, y: None }
    }
}

impl Layer for Relu {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, mut x: Tensor, pass: &Pass) -> Result<Tensor> {
        let y = x.f_relu_()?;
        self.y = (pass.mode == Mode::Train).then(|| y.shallow_clone());
        Ok(y)
    }

    fn backward(&mut self, dy: Tensor, _pass: &Pass) -> Result<Option<Tensor>> {
        let y = kept(&mut self.y, &self.name)?;
        // tch makes the schema's `self`, here the output, the receiver.
        Ok(Some(y.f_threshold_backward(&dy, 0.0)?))
    }
}
