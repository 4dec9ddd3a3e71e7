//! The walk through an architecture, layer by layer, that makes one rank's plan.

use std::ops::Range;

use anyhow::{Result, bail, ensure};

use super::{Cut, Plan, Planned, Site, Step};
use crate::kernels::pool::MaxPool as MaxPoolRule;
use crate::net::Images;
use crate::net::arch::{Architecture, InitSpec, LayerSpec, WeightInit};
use crate::net::gather::{GatherGradient, Parts};
use crate::params::{Holders, Init, Layout, ParamKind, ParamSpec, Placement};
use crate::topology::parts;
use crate::torch_ext::{ConvGeometry, InputGradient};

/// As [`Plan::new`].
pub(super) fn plan(arch: &Architecture, site: Site) -> Result<Plan> {
    let mut walk = Walk {
        site,
        shape: vec![arch.input, arch.input, 3],
        extent: Extent::Whole,
        images: Images::Share,
        number: 0,
        plan: Plan::default(),
    };
    let last = arch.layers.iter().rposition(|l| matches!(l, LayerSpec::Linear { .. }));
    for (index, layer) in arch.layers.iter().enumerate() {
        // Columns compute all logits each; slices hand theirs back with the shares.
        let outputs = match site.cut {
            Cut::Columns if last == Some(index) => Outputs::Replicated,
            _ => Outputs::Split,
        };
        walk.layer(layer, outputs)?;
    }
    walk.hand_back();
    Ok(walk.plan)
}

/// Whether a rank's activations are all channels or some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Whole,
    /// This rank's part of this many.
    Part(i64),
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
    images: Images,
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
                if let Extent::Part(channels) = &mut self.extent {
                    *channels *= self.shape[..2].iter().product::<i64>();
                }
                self.shape = vec![self.shape.iter().product()];
                self.push("flatten", Step::Flatten, 0);
            }
            LayerSpec::Dropout { rate } => {
                let first_unit = match self.extent {
                    Extent::Whole => 0,
                    Extent::Part(total) => self.part_of(total).start as u64,
                };
                let (rate, images) = (*rate, self.images);
                self.push("drop", Step::Dropout { rate, first_unit, images }, 0);
            }
        }
        Ok(())
    }

    /// Adds a step whose output is the current shape.
    fn push(&mut self, what: &str, step: Step, macs: i64) {
        let name = format!("{what}{}", self.number);
        self.plan.layers.push(Planned { name, step, output: self.shape.clone(), macs });
    }

    /// The parts that convolutions and what follows them are cut into.
    fn conv_parts(&self) -> i64 {
        if self.site.cut == Cut::Columns { self.site.num_parts } else { 1 }
    }

    /// This rank's part of `total`.
    fn part_of(&self, total: i64) -> Range<usize> {
        parts(total as usize, self.site.num_parts as usize)[self.site.part as usize].clone()
    }

    /// The groups this rank computes of a layer with `groups` in all.
    fn local_groups(&self, groups: i64, layer: &str) -> Result<i64> {
        let num_parts = self.conv_parts();
        if self.extent == Extent::Whole {
            return Ok(groups);
        }
        ensure!(
            groups % num_parts == 0,
            "{layer}: {groups} group(s) of channels do not divide among {num_parts} devices"
        );
        Ok(groups / num_parts)
    }

    /// Inserts a gather if the ranks hold different channels.
    fn gather(&mut self, gradient: GatherGradient) {
        if let Extent::Part(total) = self.extent {
            if let Some(channels) = self.shape.last_mut() {
                *channels = total;
            }
            self.extent = Extent::Whole;
            self.push("gather", Step::Gather(Parts::Channels(total as usize), gradient), 0);
        }
    }

    /// Gathers the batch before the first layer that is cut into slices.
    fn gather_images(&mut self) {
        let Site { num_parts, cut, .. } = self.site;
        if cut == Cut::FullyConnected && num_parts > 1 && self.images == Images::Share {
            self.images = Images::Batch;
            self.push("gather", Step::Gather(Parts::Images, GatherGradient::Partial), 0);
        }
    }

    /// Hands each rank its share of what the slices made of the batch.
    fn hand_back(&mut self) {
        if let (Images::Batch, Extent::Part(total)) = (self.images, self.extent) {
            self.shape = vec![total];
            self.push("scatter", Step::Scatter(total as usize), 0);
        }
    }

    fn conv(&mut self, layer: &LayerSpec) -> Result<()> {
        let LayerSpec::Conv { name, filters, kernel, stride, padding, groups, init } = layer else {
            bail!("not a convolution: {layer:?}")
        };
        ensure!(self.images == Images::Share, "{name} stands after a fully-connected layer");
        self.number += 1;
        let num_parts = self.conv_parts();
        let aligned = *groups > 1 && groups % num_parts == 0;
        if !aligned {
            self.gather(GatherGradient::Partial);
        }
        ensure!(
            aligned || *groups == 1 || num_parts == 1,
            "{name}: {groups} groups do not divide among {num_parts} devices"
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
            let padded = *side + padding.before + padding.after;
            ensure!(padded >= *kernel, "{name}: the map is smaller than the filter");
            *side = (padded - kernel) / stride + 1;
        }
        self.shape[2] = rows;
        let macs = self.shape.iter().product::<i64>() * shape[1..].iter().product::<i64>();
        let geometry =
            ConvGeometry { stride: *stride, padding: padding.before, groups: local_groups };
        let fill = padding.after - padding.before;
        let input = if first { InputGradient::Unused } else { InputGradient::Needed };
        self.push("conv", Step::Conv { param, geometry, fill, input }, macs);
        Ok(())
    }

    fn linear(&mut self, name: &str, units: i64, init: InitSpec, outputs: Outputs) -> Result<()> {
        self.number += 1;
        self.gather_images();
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

    /// Which rows of a layer with `total` outputs this rank holds, and who else does.
    fn rows(&mut self, name: &str, total: i64, outputs: Outputs) -> Result<(Placement, Holders)> {
        let Site { num_parts, cut, .. } = self.site;
        let is_sliced = self.images == Images::Batch;
        if num_parts == 1 || outputs == Outputs::Replicated || (cut != Cut::Columns && !is_sliced) {
            self.extent = Extent::Whole;
            return Ok((Placement::Whole, Holders::Replicas));
        }
        ensure!(
            is_sliced || total % num_parts == 0,
            "{name}: {total} outputs do not divide among {num_parts} devices"
        );
        self.extent = Extent::Part(total);
        let part = self.part_of(total);
        let (first, rows) = (part.start as i64, part.len() as i64);
        let holders = if is_sliced { Holders::OneRank } else { Holders::Replicas };
        Ok((Placement::Rows { first, rows, total }, holders))
    }

    /// Adds weights of canonical `shape` and a bias; the index of the weights and the rows held here.
    fn params(
        &mut self,
        name: &str,
        shape: &[i64],
        init: InitSpec,
        outputs: Outputs,
    ) -> Result<(usize, i64)> {
        let (placement, holders) = self.rows(name, shape[0], outputs)?;
        let rows = match placement {
            Placement::Whole => shape[0],
            Placement::Rows { rows, .. } => rows,
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
            holders,
            layout,
        });
        self.plan.params.push(ParamSpec {
            name: format!("{name}.bias"),
            shape: vec![rows],
            kind: ParamKind::Bias,
            init: Init::Constant(init.bias),
            placement,
            holders,
            layout: Layout::RowMajor,
        });
        Ok((param, rows))
    }
}
