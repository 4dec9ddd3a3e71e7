//! From an architecture and a place in the world to one rank's layers.
//!
//! One rule serves every architecture: *a layer needs the gathered input unless its groups align with
//! the columns.* On one device no layer is gathered and groups stay groups; on two, each rank builds half
//! of every layer's outputs, and a `Gather` stands where a layer sees both halves. In hybrid mode only
//! fully-connected layers are cut, so the rule bites there alone; and since they are to see the whole
//! batch, shares are gathered before the first of them and handed back after the last.

mod walk;

use anyhow::Result;
use tch::{Device, Kind};

use super::arch::Architecture;
use super::conv::{Bias, Conv, Groups};
use super::dropout::Dropout;
use super::flatten::Flatten;
use super::fused::ReluLrnPool;
use super::gather::{Gather, GatherGradient, Parts};
use super::linear::Linear;
use super::lrn::Lrn;
use super::pool::MaxPool;
use super::product::on_tensor_cores;
use super::relu::Relu;
use super::scatter::Scatter;
use super::{Images, Layer, Net};
use crate::cuda;
use crate::kernels;
use crate::kernels::pool::MaxPool as MaxPoolRule;
use crate::kernels::relu_lrn_pool::ReluLrnPool as Fused;
use crate::params::{Arena, Param, ParamSpec, Sharing};
use crate::torch_ext::{ConvGeometry, InputGradient};

/// Which part of how many this rank computes of the layers that are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// This rank's part.
    pub column: i64,
    /// The number of parts; 1 where each rank holds the whole network.
    pub columns: i64,
    /// Which layers are cut.
    pub cut: Cut,
}

/// Which layers the ranks hold parts of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All, into equal columns that see the same images (the paper, §3.2).
    Columns,
    /// The fully-connected ones, into slices that see the whole batch; of the convolutions each rank
    /// has a replica, which sees a share (Krizhevsky 2014).
    FullyConnected,
}

impl Site {
    /// A rank that holds the whole network.
    pub const WHOLE: Self = Self { column: 0, columns: 1, cut: Cut::Columns };
}

/// One layer as one rank computes it.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A convolution with its weights and bias at `param` and `param + 1`.
    Conv {
        /// Index of the weights among the rank's parameters.
        param: usize,
        /// Stride, padding on each side and groups on this rank.
        geometry: ConvGeometry,
        /// More zeros on the right and at the bottom than on the other sides.
        fill: i64,
        /// Whether anything below needs a gradient.
        input: InputGradient,
    },
    /// See [`super::arch::LayerSpec::Relu`].
    Relu,
    /// LRN within this many groups on this rank.
    Lrn(kernels::lrn::Lrn, usize),
    /// Max pooling.
    MaxPool(MaxPoolRule),
    /// See [`super::arch::LayerSpec::Flatten`].
    Flatten,
    /// Dropout.
    Dropout {
        /// The probability that a unit is dropped.
        rate: f64,
        /// The canonical index of this rank's first unit.
        first_unit: u64,
        /// Which images its rows are.
        images: Images,
    },
    /// A fully-connected layer with its weights and bias at `param` and `param + 1`.
    Linear {
        /// Index of the weights among the rank's parameters.
        param: usize,
    },
    /// Brings together what the ranks hold parts of.
    Gather(Parts, GatherGradient),
    /// From the whole batch and a slice of this many units to a share and all units.
    Scatter(usize),
}

/// A step with its name, its output and its cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// `conv1`, `relu1`, `norm1`, `pool1`, `gather3`, …
    pub name: String,
    /// What is computed.
    pub step: Step,
    /// The shape of its output for one image on this rank: `[H, W, C]` or `[C]`.
    pub output: Vec<i64>,
    /// Multiplications on this rank for one image that it sees, in the forward pass.
    pub macs: i64,
}

/// One rank's network, before any memory is allocated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Layers in forward order.
    pub layers: Vec<Planned>,
    /// Parameters in forward order.
    pub params: Vec<ParamSpec>,
}

impl Plan {
    /// Plans `arch` for the rank at `site`.
    ///
    /// # Errors
    /// If the columns do not divide a layer, naming it.
    pub fn new(arch: &Architecture, site: Site) -> Result<Self> {
        walk::plan(arch, site)
    }

    /// The number of parameters on this rank.
    #[must_use]
    pub fn num_params(&self) -> usize {
        self.params.iter().map(ParamSpec::numel).sum()
    }

    /// Multiplications on this rank for one image that each layer sees, in the forward pass.
    #[must_use]
    pub fn num_macs(&self) -> i64 {
        self.layers.iter().map(|layer| layer.macs).sum()
    }

    /// Allocates the parameters, all zero.
    #[must_use]
    pub fn arena(&self, kind: Kind, device: Device, sharing: Sharing) -> Arena {
        Arena::new(self.params.clone(), kind, device, sharing)
    }

    /// Makes the layers, which look into `arena`, as they are fastest on its device.
    #[must_use]
    pub fn build(&self, arena: Arena) -> Net {
        let device = arena.weights.device();
        let style = match device {
            Device::Cpu => Style::Cpu,
            _ if cuda::engine(device).is_some() => Style::Gpu,
            _ => Style::Plain,
        };
        self.build_in(style, arena)
    }

    /// Makes the layers in this style, whatever the device.
    #[must_use]
    pub fn build_in(&self, style: Style, arena: Arena) -> Net {
        let mut layers: Vec<Box<dyn Layer>> = Vec::with_capacity(self.layers.len());
        let mut rest = &self.layers[..];
        // What a convolution leaves to the next layer.
        let mut bias = None;
        while let [next, following @ ..] = rest {
            let before_relu = matches!(following.first().map(|p| &p.step), Some(Step::Relu));
            let (layer, num_steps) = match (&next.step, style) {
                (Step::Conv { param, .. }, Style::Gpu) => {
                    let groups = groups_on_gpu(&arena, *param);
                    let conv = next.conv(&arena).with_groups(groups);
                    bias = before_relu.then(|| arena.param(param + 1));
                    let adds = if before_relu { Bias::Next } else { Bias::Here };
                    (Box::new(conv.with_bias(adds)) as Box<dyn Layer>, 1)
                }
                (Step::Relu, Style::Cpu | Style::Gpu) => rectified(rest, bias.take()),
                _ => (next.layer(&arena), 1),
            };
            layers.push(layer);
            rest = &rest[num_steps..];
        }
        Net { layers, arena }
    }
}

/// Which of several ways to compute the same layers a network takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// libtorch's operations alone: where a GPU has none of our kernels.
    Plain,
    /// ReLU, normalisation and pooling in one pass.
    Cpu,
    /// That pass also adds the convolution's bias, and groups are computed as one where that is faster.
    Gpu,
}

/// How a convolution with these weights is faster on a GPU: docs/results/gpu.md has the times.
fn groups_on_gpu(arena: &Arena, weights: usize) -> Groups {
    let shape = &arena.specs()[weights].shape;
    let is_large = shape.last().is_some_and(|&side| side > 3);
    match arena.weights.kind() {
        kind if on_tensor_cores(kind) => Groups::AsOne,
        // Of large filters cuDNN's time hardly depends on the channels.
        Kind::Float if is_large => Groups::AsOne,
        _ => Groups::Apart,
    }
}

/// The layer for the ReLU that `planned` starts with and what it is fused with, and the number of steps. It adds
/// `bias`, if there is one.
fn rectified(planned: &[Planned], bias: Option<Param>) -> (Box<dyn Layer>, usize) {
    let step = |index: usize| planned.get(index).map(|p| &p.step);
    let (lrn, groups, pool, num_steps) = match (step(0), step(1), step(2)) {
        (Some(Step::Relu), Some(Step::Lrn(rule, groups)), Some(Step::MaxPool(pool))) => {
            (Some(*rule), *groups, *pool, 3)
        }
        (Some(Step::Relu), Some(Step::MaxPool(pool)), _) => (None, 1, *pool, 2),
        _ => return (Box::new(Relu::new(planned[0].name.clone(), bias)), 1),
    };
    let names: Vec<_> = planned[..num_steps].iter().map(|p| p.name.as_str()).collect();
    let rule = Fused { lrn, groups, pool };
    (Box::new(ReluLrnPool::new(names.join("+"), rule, bias)), num_steps)
}

impl Planned {
    /// # Panics
    /// If it is no convolution.
    fn conv(&self, arena: &Arena) -> Conv {
        let Step::Conv { param, geometry, fill, input } = &self.step else {
            panic!("{} is no convolution", self.name)
        };
        let (w, b) = (arena.param(*param), arena.param(param + 1));
        Conv::new(self.name.clone(), w, b, *geometry, *input).filled(*fill)
    }

    fn layer(&self, arena: &Arena) -> Box<dyn Layer> {
        let name = self.name.clone();
        match &self.step {
            Step::Conv { .. } => Box::new(self.conv(arena)),
            Step::Relu => Box::new(Relu::new(name, None)),
            Step::Lrn(rule, groups) => Box::new(Lrn::new(name, *rule, *groups)),
            Step::MaxPool(rule) => Box::new(MaxPool::new(name, *rule)),
            Step::Flatten => Box::new(Flatten::new(name)),
            Step::Dropout { rate, first_unit, images } => {
                Box::new(Dropout::new(name, *rate, *first_unit, *images))
            }
            Step::Linear { param } => {
                Box::new(Linear::new(name, arena.param(*param), arena.param(param + 1)))
            }
            Step::Gather(parts, gradient) => Box::new(Gather::new(name, *parts, *gradient)),
            Step::Scatter(units) => Box::new(Scatter::new(name, *units)),
        }
    }
}

#[cfg(test)]
mod tests;
