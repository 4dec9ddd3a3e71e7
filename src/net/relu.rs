//! Rectified linear units, `max(0, x)` (paper §3.1), in place. A convolution before them may leave its bias to
//! them.

use anyhow::Result;
use tch::Tensor;

use super::{Layer, Mode, Pass, bias, kept};
use crate::params::Param;

/// A ReLU layer. The sign of the output is all that backward needs.
pub(super) struct Relu {
    name: String,
    /// What the convolution leaves to this layer in training.
    bias: Option<Param>,
    y: Option<Tensor>,
}

impl Relu {
    pub(super) fn new(name: String, bias: Option<Param>) -> Self {
        Self { name, bias, y: None }
    }
}

impl Layer for Relu {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, mut x: Tensor, pass: &Pass) -> Result<Tensor> {
        match &self.bias {
            Some(b) if pass.mode == Mode::Train => bias::add_and_rectify(&mut x, b)?,
            _ => drop(x.f_relu_()?),
        }
        self.y = (pass.mode == Mode::Train).then(|| x.shallow_clone());
        Ok(x)
    }

    fn backward(&mut self, dy: Tensor, _pass: &Pass) -> Result<Option<Tensor>> {
        let y = kept(&mut self.y, &self.name)?;
        // tch makes the schema's `self`, here the output, the receiver.
        let dx = y.f_threshold_backward(&dy, 0.0)?;
        if let Some(b) = &mut self.bias {
            bias::put_gradient(&dx, b)?;
        }
        Ok(Some(dx))
    }
}
