//! A network as a list of layers, each with an explicit forward and backward pass.
//!
//! AlexNet is a chain, so backward is the list read from its end; and because no tape is recorded, a
//! layer may also talk to other ranks (`gather`). Activations are channels last, `[N, H, W, C]`, or
//! `[N, C]` once flattened. The module knows neither data sets nor configuration files.

pub mod arch;
mod bias;
pub mod build;
mod conv;
mod dropout;
mod flatten;
mod fused;
mod gather;
mod linear;
pub mod loss;
mod lrn;
mod pool;
mod product;
mod relu;
mod scatter;
mod stack;

use std::ops::Range;

use anyhow::{Context, Result};
use tch::Tensor;

use crate::collective::Collective;
use crate::kernels::stacks::Stacks;
use crate::params::{Arena, all_finite};
use crate::random::Key;

pub use gather::{GatherGradient, Parts};
pub use stack::{stack, unstack};

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Dropout is on and layers keep what backward needs.
    Train,
    /// Dropout is off and nothing is kept.
    Eval,
}

/// What layers may know about the batch they are given.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// Training or evaluation.
    pub mode: Mode,
    /// The stream of dropout masks for this step.
    pub dropout: Key,
    /// The position of the first image within the global batch.
    pub first: u64,
    /// The ranks that hold the other columns, or slices, of the same layers.
    pub columns: &'a dyn Collective,
    /// The number of images of each of them, in rank order, where they see different ones.
    pub shares: &'a [usize],
}

/// Which images a rank has at some point of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Images {
    /// Its share of the batch.
    Share,
    /// All of the batch.
    Batch,
}

/// Whether a layer needs other ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It is on this rank.
    Local,
    /// Other ranks have to take part.
    Peers,
}

/// What a backward pass has just asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Layers of this reach.
    Layers(Reach),
    /// All gradients in this range of the arena.
    Gradients(Range<usize>),
}

/// One layer. Between `forward` in [`Mode::Train`] and `backward` it owns what it has to remember.
pub trait Layer: Send {
    /// The name in messages, for instance `conv1` or `pool2`.
    fn name(&self) -> &str;

    /// The output for `x`.
    ///
    /// # Errors
    /// If libtorch refuses the operation, or another rank has failed.
    fn forward(&mut self, x: Tensor, pass: &Pass) -> Result<Tensor>;

    /// The gradient with respect to the last input, given the one with respect to its output.
    /// Parameter gradients go into the arena. Nothing is returned where nobody needs it.
    ///
    /// # Errors
    /// As `forward`.
    fn backward(&mut self, dy: Tensor, pass: &Pass) -> Result<Option<Tensor>>;

    /// Whether other ranks have to take part.
    fn reach(&self) -> Reach {
        Reach::Local
    }

    /// The part of the arena that `backward` fills.
    fn params(&self) -> Option<Range<usize>> {
        None
    }

    /// How the channels of its maps lie.
    fn stacks(&self) -> Stacks {
        Stacks::ONE
    }
}

/// Takes what `forward` kept.
///
/// # Errors
/// If backward is called without a training forward before it.
fn kept<T>(slot: &mut Option<T>, layer: &str) -> Result<T> {
    slot.take().with_context(|| format!("{layer}: backward without a training forward before it"))
}

/// Runs a layer; where other ranks take part, `done` hears of what was before it, and of it.
fn around<T>(
    reach: Reach,
    mut done: impl FnMut(Reach) -> Result<()>,
    layer: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if reach == Reach::Local {
        return layer();
    }
    done(Reach::Local)?;
    let out = layer()?;
    done(reach)?;
    Ok(out)
}

/// One rank's part of a network.
pub struct Net {
    layers: Vec<Box<dyn Layer>>,
    /// The parameters the layers look into.
    pub arena: Arena,
}

impl Net {
    /// The logits, `[N, classes]`, for images `x`, `[N, H, W, 3]`. Around layers in which other ranks
    /// take part, `done` hears the reach of what has been asked for since it last heard.
    ///
    /// # Errors
    /// If `done` or a layer fails; the error names it.
    pub fn forward(
        &mut self,
        x: Tensor,
        pass: &Pass,
        mut done: impl FnMut(Reach) -> Result<()>,
    ) -> Result<Tensor> {
        self.layers.iter_mut().try_fold(x, |x, layer| {
            let name = layer.name().to_owned();
            let y = around(layer.reach(), &mut done, || layer.forward(x, pass));
            y.with_context(|| format!("forward of {name}"))
        })
    }

    /// Fills the arena's gradients, last layer first. `done` hears of each range as it is filled, and of
    /// layers as in [`Self::forward`].
    ///
    /// # Errors
    /// If a layer or `done` fails.
    pub fn backward(
        &mut self,
        dlogits: Tensor,
        pass: &Pass,
        mut done: impl FnMut(&mut Arena, Done) -> Result<()>,
    ) -> Result<()> {
        let Self { layers, arena } = self;
        let mut dy = Some(dlogits);
        for layer in layers.iter_mut().rev() {
            let Some(gradient) = dy.take() else { break };
            let told = |reach| done(arena, Done::Layers(reach));
            dy = around(layer.reach(), told, || layer.backward(gradient, pass))
                .with_context(|| format!("backward of {}", layer.name()))?;
            if let Some(range) = layer.params() {
                done(arena, Done::Gradients(range))?;
            }
        }
        Ok(())
    }

    /// The layers in forward order, for running one at a time.
    pub fn layers_mut(&mut self) -> &mut [Box<dyn Layer>] {
        &mut self.layers
    }

    /// The first layer, in forward order, whose output for `x` is not finite. A rank that looks for it
    /// alone, with [`Reach::Local`], cannot look behind the first layer that needs others.
    ///
    /// # Errors
    /// If a layer fails.
    pub fn first_non_finite(
        &mut self,
        x: Tensor,
        pass: &Pass,
        reach: Reach,
    ) -> Result<Option<String>> {
        let mut x = x;
        if !all_finite(&x) {
            return Ok(Some("the input".to_owned()));
        }
        for layer in &mut self.layers {
            if reach == Reach::Local && layer.reach() == Reach::Peers {
                return Ok(Some(format!("{} or one above it", layer.name())));
            }
            x = layer.forward(x, pass)?;
            if !all_finite(&x) {
                return Ok(Some(layer.name().to_owned()));
            }
        }
        Ok(None)
    }

    /// The outputs of every layer for `x`, with the layers' names. In training a convolution may leave its bias
    /// to the next layer, so this is for [`Mode::Eval`].
    ///
    /// # Errors
    /// If a layer fails.
    pub fn activations(&mut self, x: Tensor, pass: &Pass) -> Result<Vec<(String, Tensor)>> {
        let mut outputs = Vec::with_capacity(self.layers.len());
        let mut x = x;
        for layer in &mut self.layers {
            x = layer.forward(x, pass)?;
            // Later layers may work in place.
            outputs.push((layer.name().to_owned(), unstack(x.copy(), layer.stacks().output)?));
        }
        Ok(outputs)
    }
}

#[cfg(test)]
mod tests;
