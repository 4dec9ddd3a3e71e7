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
use super::product::is_full_fp32;
use super::relu::Relu;
use super::scatter::Scatter;
use super::{Images, Layer, Net};
use crate::cuda;
use crate::kernels;
use crate::kernels::pool::MaxPool as MaxPoolRule;
use crate::kernels::relu_lrn_pool::ReluLrnPool as Fused;
use crate::kernels::stacks::Stacks;
use crate::params::{Arena, Param, ParamSpec, Sharing};
use crate::torch_ext::{ConvGeometry, InputGradient};

/// Which part of how many this rank computes of the layers that are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// This rank's part.
    pub part: i64,
    /// The number of parts; 1 where each rank holds the whole network.
    pub num_parts: i64,
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
    pub const WHOLE: Self = Self { part: 0, num_parts: 1, cut: Cut::Columns };
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
        let kind = arena.weights.kind();
        let mut layers: Vec<Box<dyn Layer>> = Vec::with_capacity(self.layers.len());
        // What a convolution leaves to the next layer.
        let mut bias = None;
        let mut at = 0;
        while let Some(next) = self.layers.get(at) {
            let num_steps = match style {
                Style::Plain => 1,
                Style::Cpu | Style::Gpu => self.fused_at(at).1,
            };
            layers.push(match (&next.step, style) {
                (Step::Conv { param, .. }, Style::Gpu) => {
                    let before_relu = matches!(self.step(at + 1), Some(Step::Relu));
                    bias = before_relu.then(|| arena.param(param + 1));
                    let adds = if before_relu { Bias::Next } else { Bias::Here };
                    let groups = self.groups_on_gpu(at, kind);
                    Box::new(next.conv(&arena).with_groups(groups).with_bias(adds))
                }
                (Step::Relu, Style::Cpu | Style::Gpu) => {
                    let stacks = match style {
                        Style::Gpu => self.stacks_around(at, num_steps, kind),
                        _ => Stacks::ONE,
                    };
                    self.rectified(at, bias.take(), stacks)
                }
                _ => next.layer(&arena),
            });
            at += num_steps;
        }
        Net { layers, arena }
    }

    fn step(&self, at: usize) -> Option<&Step> {
        self.layers.get(at).map(|planned| &planned.step)
    }

    /// The layer that the step there is fused to with those behind it, if it is, and the number of steps.
    fn fused_at(&self, at: usize) -> (Option<Fused>, usize) {
        let fused = |lrn, groups, pool: &MaxPoolRule| Some(Fused { lrn, groups, pool: *pool });
        match (self.step(at), self.step(at + 1), self.step(at + 2)) {
            (Some(Step::Relu), Some(Step::Lrn(rule, groups)), Some(Step::MaxPool(pool))) => {
                (fused(Some(*rule), *groups, pool), 3)
            }
            (Some(Step::Relu), Some(Step::MaxPool(pool)), _) => (fused(None, 1, pool), 2),
            _ => (None, 1),
        }
    }

    /// The layer for the ReLU there and what it is fused with. It adds `bias`, if there is one.
    fn rectified(&self, at: usize, bias: Option<Param>, stacks: Stacks) -> Box<dyn Layer> {
        let (fused, num_steps) = self.fused_at(at);
        let names = self.layers[at..at + num_steps].iter().map(|p| p.name.as_str());
        let name = names.collect::<Vec<_>>().join("+");
        match fused {
            Some(rule) => Box::new(ReluLrnPool::new(name, rule, bias).in_stacks(stacks)),
            None => Box::new(Relu::new(name, bias).in_stacks(stacks)),
        }
    }

    /// How the convolution there is fastest on a GPU: docs/results/gpu.md has the times.
    fn groups_on_gpu(&self, at: usize, kind: Kind) -> Groups {
        let Some(Step::Conv { geometry, fill, param, .. }) = self.step(at) else {
            return Groups::Grouped;
        };
        let is_small = self.params[*param].shape.last().is_some_and(|&side| side <= 3);
        let is_simple = geometry.stride == 1 && *fill == 0;
        match geometry.groups {
            // Of small filters in full fp32 the gradient of the input takes cuDNN twice as long as a convolution.
            1 if is_simple && is_small && is_full_fp32(kind) => Groups::Stacked,
            1 => Groups::Grouped,
            groups if is_simple && self.may_be_stacked(at, groups as usize) => Groups::Stacked,
            // Of large filters cuDNN's time hardly depends on the channels.
            _ if is_small && is_full_fp32(kind) => Groups::Grouped,
            _ => Groups::AsOne,
        }
    }

    /// Whether the layers around a convolution can write and read stacks of its groups: those that begin with a ReLU,
    /// if their normalisation keeps the groups apart.
    fn may_be_stacked(&self, conv: usize, groups: usize) -> bool {
        let keeps_apart = |relu: usize| match self.step(relu) {
            Some(Step::Relu) => {
                let fused = self.fused_at(relu).0.filter(|fused| fused.lrn.is_some());
                fused.is_none_or(|fused| fused.groups.is_multiple_of(groups))
            }
            _ => false,
        };
        let before = (1..=3.min(conv)).map(|back| conv - back);
        let mut writes = before.filter(|&relu| relu + self.fused_at(relu).1 == conv);
        writes.any(keeps_apart) && keeps_apart(conv + 1)
    }

    /// How the channels lie before and behind the ReLU there and what it is fused with.
    fn stacks_around(&self, at: usize, num_steps: usize, kind: Kind) -> Stacks {
        let of = |at: usize| match self.step(at) {
            Some(Step::Conv { geometry, .. })
                if self.groups_on_gpu(at, kind) == Groups::Stacked =>
            {
                geometry.groups as usize
            }
            _ => 1,
        };
        Stacks { input: at.checked_sub(1).map_or(1, of), output: of(at + num_steps) }
    }
}

/// Which of several ways to compute the same layers a network takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// libtorch's operations alone: where a GPU has none of our kernels.
    Plain,
    /// ReLU, normalisation and pooling in one pass.
    Cpu,
    /// That pass also adds the convolution's bias, and maps are stacked by groups where the layers allow it.
    Gpu,
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
