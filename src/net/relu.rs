//! Rectified linear units, `max(0, x)` (paper §3.1), in place. A convolution before them may leave its bias to
//! them, and one behind them may want its groups apart.

use anyhow::Result;
use tch::Tensor;

use super::stack::{stack, unstack};
use super::{Layer, Mode, Pass, bias, kept};
use crate::kernels::stacks::Stacks;
use crate::params::Param;

/// A ReLU layer. The sign of the output is all that backward needs.
pub(super) struct Relu {
    name: String,
    /// What the convolution leaves to this layer in training.
    bias: Option<Param>,
    stacks: Stacks,
    y: Option<Tensor>,
}

impl Relu {
    pub(super) fn new(name: String, bias: Option<Param>) -> Self {
        Self { name, bias, stacks: Stacks::ONE, y: None }
    }

    /// The same between layers whose channels lie so.
    pub(super) fn in_stacks(self, stacks: Stacks) -> Self {
        Self { stacks, ..self }
    }

    /// The activations, as the output has them.
    fn rectified(&self, mut x: Tensor, mode: Mode) -> Result<Tensor> {
        let Stacks { input, output } = self.stacks;
        match &self.bias {
            Some(b) if mode == Mode::Train => {
                if let Some(y) = bias::rectified_into_stacks(&x, b, self.stacks)? {
                    return Ok(y);
                }
                bias::add_and_rectify(&mut x, b, input)?;
            }
            _ => drop(x.f_relu_()?),
        }
        if input == output { Ok(x) } else { stack(unstack(x, input)?, output) }
    }
}

impl Layer for Relu {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, x: Tensor, pass: &Pass) -> Result<Tensor> {
        let y = self.rectified(x, pass.mode)?;
        self.y = (pass.mode == Mode::Train).then(|| y.shallow_clone());
        Ok(y)
    }

    fn backward(&mut self, dy: Tensor, _pass: &Pass) -> Result<Option<Tensor>> {
        let y = kept(&mut self.y, &self.name)?;
        let Stacks { input, output } = self.stacks;
        let dx = match bias::unrectified_from_stacks(&y, &dy, self.stacks)? {
            Some(dx) => dx,
            None => {
                // tch makes the schema's `self`, here the output, the receiver.
                let dx = y.f_threshold_backward(&dy, 0.0)?;
                if input == output { dx } else { stack(unstack(dx, output)?, input)? }
            }
        };
        if let Some(b) = &self.bias {
            bias::put_gradient(&dx, b, input)?;
        }
        Ok(Some(dx))
    }

    fn stacks(&self) -> Stacks {
        self.stacks
    }
}
