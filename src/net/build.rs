//! From an architecture and a place in the world to one rank's layers.
//!
//! One rule serves every architecture: *a layer needs the gathered input unless its groups align with
//! the columns.* On one device no layer is gathered and groups stay groups; on two, each rank builds half
//! of every layer's outputs, and a `Gather` stands where a layer sees both halves.

use anyhow::{Result, bail, ensure};
use tch::{Device, Kind};

use super::arch::{Architecture, InitSpec, LayerSpec, WeightInit};
use super::conv::Conv;
use super::dropout::Dropout;
use super::flatten::Flatten;
use super::fused::ReluLrnPool;
use super::gather::{Gather, GatherGradient};
use super::linear::Linear;
use super::lrn::Lrn;
use super::pool::MaxPool;
use super::relu::Relu;
use super::{Layer, Net};
use crate::cuda;
use crate::kernels;
use crate::kernels::pool::MaxPool as MaxPoolRule;
use crate::kernels::relu_lrn_pool::ReluLrnPool as Fused;
use crate::params::{Arena, Init, Layout, ParamKind, ParamSpec, Placement, Sharing};
use crate::torch_ext::{ConvGeometry, InputGradient};

/// Which of how many columns this rank computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// This rank's column.
    pub column: i64,
    /// Ranks a replica is spread over; 1 where each rank holds the whole network.
    pub columns: i64,
}

impl Site {
    /// A rank that holds the whole network.
    pub const WHOLE: Self = Self { column: 0, columns: 1 };
}

/// One layer as one rank computes it.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A convolution with its weights and bias at `param` and `param + 1`.
    Conv {
        /// Index of the weights among the rank's parameters.
        param: usize,
        /// Stride, padding and groups on this rank.
        geometry: ConvGeometry,
        /// Whether anything below needs a gradient.
        input: InputGradient,
    },
    /// See [`LayerSpec::Relu`].
    Relu,
    /// LRN within this many groups on this rank.
    Lrn(kernels::lrn::Lrn, usize),
    /// Max pooling.
    MaxPool(MaxPoolRule),
    /// See [`LayerSpec::Flatten`].
    Flatten,
    /// Dropout with this rate; the canonical index of this rank's first unit.
    Dropout(f64, u64),
    /// A fully-connected layer with its weights and bias at `param` and `param + 1`.
    Linear {
        /// Index of the weights among the rank's parameters.
        param: usize,
    },
    /// Joins the columns.
    Gather(GatherGradient),
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
    /// Multiplications per image on this rank, in the forward pass.
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
        let shape = vec![arch.input, arch.input, 3];
        let mut walk =
            Walk { site, shape, extent: Extent::Whole, number: 0, plan: Self::default() };
        let last = arch.layers.iter().rposition(|l| matches!(l, LayerSpec::Linear { .. }));
        for (index, layer) in arch.layers.iter().enumerate() {
            walk.layer(
                layer,
                if last == Some(index) { Outputs::Replicated } else { Outputs::Split },
            )?;
        }
        Ok(walk.plan)
    }

    /// The number of parameters on this rank.
    #[must_use]
    pub fn num_params(&self) -> usize {
        self.params.iter().map(ParamSpec::numel).sum()
    }

    /// Multiplications per image on this rank, in the forward pass.
    #[must_use]
    pub fn num_macs(&self) -> i64 {
        self.layers.iter().map(|layer| layer.macs).sum()
    }

    /// Allocates the parameters, all zero.
    #[must_use]
    pub fn arena(&self, kind: Kind, device: Device, sharing: Sharing) -> Arena {
        Arena::new(self.params.clone(), kind, device, sharing)
    }

    /// Makes the layers, which look into `arena`.
    #[must_use]
    pub fn build(&self, arena: Arena) -> Net {
        let device = arena.weights.device();
        let mut layers: Vec<Box<dyn Layer>> = Vec::with_capacity(self.layers.len());
        let mut rest = &self.layers[..];
        while let [next, ..] = rest {
            let ours = device == Device::Cpu || cuda::engine(device).is_some();
            let fused = if ours { fused(rest) } else { None };
            let (layer, num_steps) = fused.unwrap_or_else(|| (next.layer(&arena), 1));
            layers.push(layer);
            rest = &rest[num_steps..];
        }
        Net { layers, arena }
    }
}

/// The fused layer for the steps that `planned` starts with, if there is one, and their number.
fn fused(planned: &[Planned]) -> Option<(Box<dyn Layer>, usize)> {
    let step = |index: usize| planned.get(index).map(|p| &p.step);
    let (lrn, groups, pool, num_steps) = match (step(0), step(1), step(2)) {
        (Some(Step::Relu), Some(Step::Lrn(rule, groups)), Some(Step::MaxPool(pool))) => {
            (Some(*rule), *groups, *pool, 3)
        }
        (Some(Step::Relu), Some(Step::MaxPool(pool)), _) => (None, 1, *pool, 2),
        _ => return None,
    };
    let names: Vec<_> = planned[..num_steps].iter().map(|p| p.name.as_str()).collect();
    let rule = Fused { lrn, groups, pool };
    Some((Box::new(ReluLrnPool::new(names.join("+"), rule)), num_steps))
}

impl Planned {
    fn layer(&self, arena: &Arena) -> Box<dyn Layer> {
        let name = self.name.clone();
        match &self.step {
            Step::Conv { param, geometry, input } => {
                let (w, b) = (arena.param(*param), arena.param(param + 1));
                Box::new(Conv::new(name, w, b, *geometry, *input))
            }
            Step::Relu => Box::new(Relu::new(name)),
            Step::Lrn(rule, groups) => Box::new(Lrn::new(name, *rule, *groups)),
            Step::MaxPool(rule) => Box::new(MaxPool::new(name, *rule)),
            Step::Flatten => Box::new(Flatten::new(name)),
            Step::Dropout(rate, first_unit) => Box::new(Dropout::new(name, *rate, *first_unit)),
            Step::Linear { param } => {
                Box::new(Linear::new(name, arena.param(*param), arena.param(param + 1)))
            }
            Step::Gather(gradient) => Box::new(Gather::new(name, *gradient)),
        }
    }
}

/// Whether a rank's activations are all channels or its own columns'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Whole,
    Column,
}

/// Whether the ranks share a layer's outputs among them, or each computes all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outputs {
    Split,
    Replicated,
}

/// The state of planning: what the layers so far put out.
struct Walk {
    site: Site,
    shape: Vec<i64>,
    extent: Extent,
    /// The number of the last layer with weights, which its companions share.
    number: usize,
    plan: Plan,
}

impl Walk {
    fn layer(&mut self, layer: &LayerSpec, outputs: Outputs) -> Result<()> {
        match layer {
            LayerSpec::Conv { .. } => self.conv(layer)?,
            LayerSpec::Linear { name, outputs: units, init } => {
                self.linear(name, *units, *init, outputs)?;
            }
            LayerSpec::Relu => self.push("relu", Step::Relu, 0),
            LayerSpec::Lrn { rule, groups } => {
                let groups = self.local_groups(*groups, "norm")?;
                self.push("norm", Step::Lrn(*rule, groups as usize), 0);
            }
            LayerSpec::MaxPool { kernel, stride } => {
                for side in &mut self.shape[..2] {
                    ensure!(*side >= *kernel, "a {kernel}-pixel pool over a map of {side} pixels");
                    *side = (*side - kernel) / stride + 1;
                }
                let rule = MaxPoolRule { window: *kernel as usize, stride: *stride as usize };
                self.push("pool", Step::MaxPool(rule), 0);
            }
            LayerSpec::Flatten => {
                self.shape = vec![self.shape.iter().product()];
                self.push("flatten", Step::Flatten, 0);
            }
            LayerSpec::Dropout { rate } => {
                let column = if self.extent == Extent::Column { self.site.column } else { 0 };
                let first_unit = (column * self.shape[0]) as u64;
                self.push("drop", Step::Dropout(*rate, first_unit), 0);
            }
        }
        Ok(())
    }

    /// Adds a step whose output is the current shape.
    fn push(&mut self, what: &str, step: Step, macs: i64) {
        // Dropout that stands before a layer's weights, as in torchvision, needs a name of its own.
        let name = match self.plan.layers.iter().any(|l| l.name == format!("{what}{}", self.number))
        {
            false => format!("{what}{}", self.number),
            true => format!("{what}{}b", self.number),
        };
        self.plan.layers.push(Planned { name, step, output: self.shape.clone(), macs });
    }

    /// The groups this rank computes of a layer with `groups` in all.
    fn local_groups(&self, groups: i64, layer: &str) -> Result<i64> {
        let columns = self.site.columns;
        if self.extent == Extent::Whole {
            return Ok(groups);
        }
        ensure!(
            groups % columns == 0,
            "{layer}: {groups} group(s) of channels do not divide among {columns} devices"
        );
        Ok(groups / columns)
    }

    /// Inserts a gather if the ranks hold different channels.
    fn gather(&mut self, gradient: GatherGradient) {
        if self.extent == Extent::Column {
            if let Some(channels) = self.shape.last_mut() {
                *channels *= self.site.columns;
            }
            self.extent = Extent::Whole;
            self.push("gather", Step::Gather(gradient), 0);
        }
    }

    fn conv(&mut self, layer: &LayerSpec) -> Result<()> {
        let LayerSpec::Conv { name, filters, kernel, stride, padding, groups, init } = layer else {
            bail!("not a convolution: {layer:?}")
        };
        self.number += 1;
        let columns = self.site.columns;
        let aligned = *groups > 1 && groups % columns == 0;
        if !aligned {
            self.gather(GatherGradient::Partial);
        }
        ensure!(
            aligned || *groups == 1 || columns == 1,
            "{name}: {groups} groups do not divide among {columns} devices"
        );
        let first = self.plan.layers.is_empty();
        let local_groups = self.local_groups(*groups, name)?;
        let channels = self.shape[2];
        ensure!(
            channels % local_groups == 0,
            "{name}: {channels} channels in {local_groups} groups"
        );
        let shape = [*filters, channels / local_groups, *kernel, *kernel];
        let (param, rows) = self.params(name, &shape, *init, Outputs::Split)?;
        for side in &mut self.shape[..2] {
            ensure!(*side + 2 * padding >= *kernel, "{name}: the map is smaller than the filter");
            *side = (*side + 2 * padding - kernel) / stride + 1;
        }
        self.shape[2] = rows;
        let macs = self.shape.iter().product::<i64>() * shape[1..].iter().product::<i64>();
        let geometry = ConvGeometry { stride: *stride, padding: *padding, groups: local_groups };
        let input = if first { InputGradient::Unused } else { InputGradient::Needed };
        self.push("conv", Step::Conv { param, geometry, input }, macs);
        Ok(())
    }

    fn linear(&mut self, name: &str, units: i64, init: InitSpec, outputs: Outputs) -> Result<()> {
        self.number += 1;
        self.gather(match outputs {
            Outputs::Split => GatherGradient::Partial,
            Outputs::Replicated => GatherGradient::Replicated,
        });
        let inputs: i64 = self.shape.iter().product();
        let (param, rows) = self.params(name, &[units, inputs], init, outputs)?;
        self.shape = vec![rows];
        self.push("fc", Step::Linear { param }, rows * inputs);
        Ok(())
    }

    /// Adds weights of canonical `shape` and a bias; the index of the weights and the rows held here.
    fn params(
        &mut self,
        name: &str,
        shape: &[i64],
        init: InitSpec,
        outputs: Outputs,
    ) -> Result<(usize, i64)> {
        let (total, columns) = (shape[0], self.site.columns);
        let (rows, placement) = if columns == 1 || outputs == Outputs::Replicated {
            self.extent = Extent::Whole;
            (total, Placement::Whole)
        } else {
            ensure!(
                total % columns == 0,
                "{name}: {total} outputs do not divide among {columns} devices"
            );
            self.extent = Extent::Column;
            let rows = total / columns;
            (rows, Placement::Rows { first: self.site.column * rows, rows, total })
        };
        let fan_in = shape[1..].iter().product::<i64>() as f64;
        let sigma = match init.weight {
            WeightInit::Sigma(sigma) => sigma,
            WeightInit::He => (2.0 / fan_in).sqrt(),
            WeightInit::Torch => (1.0 / (3.0 * fan_in)).sqrt(),
        };
        let mut weight_shape = shape.to_vec();
        weight_shape[0] = rows;
        let layout = if shape.len() == 4 { Layout::ChannelsLast } else { Layout::RowMajor };
        let param = self.plan.params.len();
        self.plan.params.push(ParamSpec {
            name: format!("{name}.weight"),
            shape: weight_shape,
            kind: ParamKind::Weight,
            init: Init::Normal(sigma),
            placement,
            layout,
        });
        self.plan.params.push(ParamSpec {
            name: format!("{name}.bias"),
            shape: vec![rows],
            kind: ParamKind::Bias,
            init: Init::Constant(init.bias),
            placement,
            layout: Layout::RowMajor,
        });
        Ok((param, rows))
    }
}

#[cfg(test)]
mod tests;
