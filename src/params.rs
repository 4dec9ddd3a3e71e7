//! All parameters of one rank in one flat allocation.
//!
//! Layers hold views, and everything that treats parameters alike (the update, the exchange of
//! gradients, checkpoints) works on ranges. The arena also knows which part of each bucket this rank
//! updates when the ranks of the data axis share that work (ZeRO stage 1, Rajbhandari et al. 2020;
//! cuda-convnet2's sharded momentum before it). It knows neither layers nor the update rule.
//!
//! ```text
//! weights  [ conv1 | conv2 | … | fc8 ]   compute precision, whole
//! grads    [ conv1 | conv2 | … | fc8 ]   compute precision, whole
//! master   [ own parts of the buckets ]  fp32, only where the compute precision is bf16
//! ```

mod bucket;
mod spec;

use std::ops::Range;

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::collective::Collective;

pub use bucket::{Bucket, Sharing};
pub use spec::{Holders, Init, Layout, ParamKind, ParamSpec, Placement};

/// A layer's handle on one parameter: views into the arena.
pub struct Param {
    /// The values the layer computes with.
    pub weight: Tensor,
    /// Where the layer puts the gradient.
    pub grad: Tensor,
    /// The place in the arena.
    pub range: Range<usize>,
}

/// A run of elements of one kind inside the part this rank updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where in the arena.
    pub range: Range<usize>,
    /// Where in this rank's compact own storage (master weights, velocity).
    pub own: Range<usize>,
    /// Weight or bias.
    pub kind: ParamKind,
}

/// The flat storage of one rank's parameters and gradients.
pub struct Arena {
    specs: Vec<ParamSpec>,
    ranges: Vec<Range<usize>>,
    buckets: Vec<Bucket>,
    /// Values in compute precision, `[len]`.
    pub weights: Tensor,
    /// Gradients in compute precision, `[len]`.
    pub grads: Tensor,
    /// This rank's part of the values in fp32, where `weights` has fewer bits.
    pub master: Option<Tensor>,
}

impl Arena {
    /// An arena of zeros for `specs`, in forward order.
    #[must_use]
    pub fn new(specs: Vec<ParamSpec>, kind: Kind, device: Device, sharing: Sharing) -> Self {
        let (ranges, buckets) = bucket::plan(&specs, kind, sharing);
        let len = buckets.last().map_or(0, |bucket| bucket.range.end);
        let own_len = buckets.iter().map(Bucket::own_len).sum();
        let zeros = |len: usize, kind| Tensor::zeros([len as i64], (kind, device));
        let master = (kind == Kind::BFloat16).then(|| zeros(own_len, Kind::Float));
        Self { specs, ranges, buckets, weights: zeros(len, kind), grads: zeros(len, kind), master }
    }

    /// Makes replicas that can see the same memory hold one copy of `weights` between them: each
    /// writes the part it updates and reads all. To be called by all of them, before any layer looks
    /// into the arena. Where a rank holds something of its own, nothing is shared.
    ///
    /// # Errors
    /// If a peer has failed.
    pub fn share_weights(&mut self, data: &dyn Collective) -> Result<()> {
        if self.specs.iter().all(|spec| spec.holders == Holders::Replicas) {
            self.weights = data.share(&self.weights)?;
        }
        Ok(())
    }

    /// What the arena holds, in forward order.
    #[must_use]
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// The ranges that travel together, in forward order; backward completes them from the last.
    #[must_use]
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// The number of elements this rank updates.
    #[must_use]
    pub fn own_len(&self) -> usize {
        self.buckets.iter().map(Bucket::own_len).sum()
    }

    /// The runs of equal kind this rank updates in `bucket`.
    #[must_use]
    pub fn runs(&self, bucket: usize) -> Vec<Run> {
        let own = self.buckets[bucket].own();
        let before: usize = self.buckets[..bucket].iter().map(Bucket::own_len).sum();
        let mut runs = Vec::new();
        for (spec, range) in self.specs.iter().zip(&self.ranges) {
            let (first, last) = (range.start.max(own.start), range.end.min(own.end));
            if first < last {
                let shift = before + first - own.start;
                let compact = shift..shift + (last - first);
                runs.push(Run { range: first..last, own: compact, kind: spec.kind });
            }
        }
        runs
    }

    /// The views of parameter `index` for its layer.
    #[must_use]
    pub fn param(&self, index: usize) -> Param {
        Param {
            weight: self.view(&self.weights, index),
            grad: self.view(&self.grads, index),
            range: self.ranges[index].clone(),
        }
    }

    /// Parameter `index` within `flat`, `[len]`, in its logical shape.
    fn view(&self, flat: &Tensor, index: usize) -> Tensor {
        let (spec, range) = (&self.specs[index], &self.ranges[index]);
        let flat = narrow(flat, range);
        match (spec.layout, &spec.shape[..]) {
            (Layout::ChannelsLast, &[o, i, h, w]) => flat.view([o, h, w, i]).permute([0, 3, 1, 2]),
            (_, shape) => flat.view(shape),
        }
    }

    /// Overwrites every parameter with `values(spec)`, of the parameter's shape on this rank.
    ///
    /// # Errors
    /// If a value is missing or has another shape.
    pub fn load(&mut self, mut values: impl FnMut(&ParamSpec) -> Result<Tensor>) -> Result<()> {
        for index in 0..self.specs.len() {
            let spec = &self.specs[index];
            let value = values(spec)?;
            ensure!(
                value.size() == spec.shape,
                "{}: expected shape {:?}, found {:?}",
                spec.name,
                spec.shape,
                value.size()
            );
            let value = value.to_device(self.weights.device());
            self.view(&self.weights, index).copy_(&value);
            if self.master.is_some() {
                self.load_master(index, &value);
            }
        }
        Ok(())
    }

    /// Copies this rank's part of a parameter's value into the fp32 master.
    fn load_master(&mut self, index: usize, value: &Tensor) {
        let Some(master) = &self.master else { return };
        let value = self.specs[index].flat_as_stored(value);
        let range = self.ranges[index].clone();
        for bucket in 0..self.buckets.len() {
            for run in self.runs(bucket) {
                if range.start <= run.range.start && run.range.end <= range.end {
                    let part = run.range.start - range.start..run.range.end - range.start;
                    narrow(master, &run.own).copy_(&narrow(&value, &part));
                }
            }
        }
    }

    /// Overwrites this rank's part of a compact state with `values(spec)`, as [`Arena::load`] does.
    ///
    /// # Errors
    /// If a value is missing or has another shape.
    pub fn load_state(
        &self,
        state: &Tensor,
        mut values: impl FnMut(&ParamSpec) -> Result<Tensor>,
    ) -> Result<()> {
        let whole = Tensor::zeros(self.weights.size(), (state.kind(), state.device()));
        for (index, spec) in self.specs.iter().enumerate() {
            let value = values(spec)?;
            ensure!(value.size() == spec.shape, "{}: the state has another shape", spec.name);
            self.view(&whole, index).copy_(&value.to_device(whole.device()));
        }
        let mut before = 0;
        for bucket in &self.buckets {
            let own = bucket.own();
            narrow(state, &(before..before + own.len())).copy_(&narrow(&whole, &own));
            before += own.len();
        }
        Ok(())
    }

    /// Collects a compact state from the ranks that share it: `(spec, value)` on the CPU, in forward
    /// order, of the parameters this rank hands in. Every rank of the data axis must call it.
    ///
    /// # Errors
    /// If a peer has failed.
    pub fn gather_state(
        &self,
        state: &Tensor,
        data: &dyn Collective,
    ) -> Result<Vec<(ParamSpec, Tensor)>> {
        let whole = Tensor::zeros(self.weights.size(), (state.kind(), state.device()));
        let mut before = 0;
        for bucket in &self.buckets {
            let own = narrow(state, &(before..before + bucket.own_len()));
            let mut all = narrow(&whole, &bucket.range);
            if bucket.num_holders > 1 {
                data.all_gather(&own, &mut all)?;
            } else {
                all.copy_(&own);
            }
            before += bucket.own_len();
        }
        Ok(self.values_of(&whole, |spec| spec.is_handed_in_by(data.rank())))
    }

    /// The parameters at full precision, as [`Arena::gather_state`] returns them.
    ///
    /// # Errors
    /// If a peer has failed.
    pub fn gather_weights(&self, data: &dyn Collective) -> Result<Vec<(ParamSpec, Tensor)>> {
        match &self.master {
            Some(master) => self.gather_state(master, data),
            None => Ok(self.values_of(&self.weights, |spec| spec.is_handed_in_by(data.rank()))),
        }
    }

    /// A copy of each parameter's gradient, in forward order.
    #[must_use]
    pub fn gradients(&self) -> Vec<(ParamSpec, Tensor)> {
        self.values_of(&self.grads, |_| true)
    }

    /// Copies of the parameters that are `wanted`, within `flat`.
    fn values_of(
        &self,
        flat: &Tensor,
        wanted: impl Fn(&ParamSpec) -> bool,
    ) -> Vec<(ParamSpec, Tensor)> {
        let value = |index| {
            let view = self.view(flat, index).to_device(Device::Cpu);
            // A copy in every case: the arena goes on changing.
            let mut copy = Tensor::empty(view.size(), (view.kind(), Device::Cpu));
            copy.copy_(&view);
            copy
        };
        let specs = self.specs.iter().enumerate().filter(|(_, spec)| wanted(spec));
        specs.map(|(i, spec)| (spec.clone(), value(i))).collect()
    }

    /// The name of the first parameter with a value that is not finite.
    #[must_use]
    pub fn first_non_finite(&self) -> Option<&str> {
        (0..self.specs.len())
            .find(|&i| !all_finite(&self.view(&self.weights, i)))
            .map(|i| self.specs[i].name.as_str())
    }
}

/// Whether every element of `x` is a finite number.
#[must_use]
pub fn all_finite(x: &Tensor) -> bool {
    x.isfinite().all().int64_value(&[]) != 0
}

/// A range of a flat tensor, as a view.
pub fn narrow(flat: &Tensor, range: &Range<usize>) -> Tensor {
    flat.narrow(0, range.start as i64, range.len() as i64)
}
