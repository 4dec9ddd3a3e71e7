//! The update of the parameters this rank is responsible for.
//!
//! The paper's rule keeps the learning rate inside the velocity (§5):
//! `v ← 0.9 v − 0.0005 ε w − ε ∂L/∂w`, `w ← w + v`. Weights decay, biases do not, and biases learn at a
//! multiple of the rate. An update is one pass of our own kernel, on a GPU one launch for a whole bucket;
//! where a GPU has no kernels, it is the same arithmetic by libtorch.

use std::ops::Range;

use anyhow::{Result, bail};
use half::bf16;
use tch::{Device, Kind, Tensor};

use crate::cuda::engine;
use crate::elements::{by_kind, device_slice, device_slice_mut, slice, slice_mut};
use crate::kernels::cuda::{self, Engine};
use crate::kernels::update::{Adam, Momentum};
use crate::params::{Arena, ParamKind, Run, narrow};

/// The update rule and its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// The paper's, with this share of the velocity kept.
    Momentum(f64),
    /// Kingma and Ba 2015, with the customary constants, for fine-tuning.
    Adam,
}

/// Adam's constants, as its paper recommends them.
const ADAM: (f64, f64, f64) = (0.9, 0.999, 1e-8);

impl Rule {
    /// The names of the tensors the rule keeps per parameter.
    #[must_use]
    pub fn state_names(self) -> &'static [&'static str] {
        match self {
            Self::Momentum(_) => &["velocity"],
            Self::Adam => &["mean", "variance"],
        }
    }
}

/// The optimizer of one rank.
pub struct Optimizer {
    rule: Rule,
    decay: f64,
    bias_lr: f64,
    /// One compact tensor per name of [`Rule::state_names`], as long as what this rank updates.
    pub state: Vec<Tensor>,
}

/// What one run of elements is updated with.
#[derive(Clone, Copy)]
struct Rates {
    lr: f64,
    decay: f64,
    /// Updates done, this one included.
    step: u64,
}

impl Optimizer {
    /// An optimizer for `arena`, at rest.
    #[must_use]
    pub fn new(rule: Rule, decay: f64, bias_lr: f64, arena: &Arena) -> Self {
        let kind = if arena.weights.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let options = (kind, arena.weights.device());
        let zeros = |_: &&str| Tensor::zeros([arena.own_len() as i64], options);
        let state = rule.state_names().iter().map(zeros).collect();
        Self { rule, decay, bias_lr, state }
    }

    /// The rule's state with its names, compact: what this rank updates.
    pub fn state_tensors(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        self.rule.state_names().iter().copied().zip(&self.state)
    }

    /// Updates this rank's part of bucket number `bucket` with the gradients in the arena, as update
    /// number `step` (from 0) at learning rate `lr`.
    ///
    /// # Errors
    /// If libtorch refuses an operation.
    pub fn update(&mut self, arena: &mut Arena, bucket: usize, step: u64, lr: f64) -> Result<()> {
        if let Some(on) = engine(arena.weights.device()) {
            return self.update_on_gpu(&on, arena, bucket, step, lr);
        }
        for run in arena.runs(bucket) {
            let rates = self.rates(run.kind, step, lr);
            if arena.weights.device() == Device::Cpu {
                self.update_on_cpu(arena, &run, rates)?;
            } else {
                self.update_by_libtorch(arena, &run, rates)?;
            }
        }
        Ok(())
    }

    fn rates(&self, kind: ParamKind, step: u64, lr: f64) -> Rates {
        match kind {
            ParamKind::Weight => Rates { lr, decay: self.decay, step: step + 1 },
            ParamKind::Bias => Rates { lr: lr * self.bias_lr, decay: 0.0, step: step + 1 },
        }
    }

    /// All runs of the bucket in one launch.
    fn update_on_gpu(
        &mut self,
        on: &dyn Engine,
        arena: &mut Arena,
        bucket: usize,
        step: u64,
        lr: f64,
    ) -> Result<()> {
        let runs = arena.runs(bucket);
        let runs: Vec<_> = runs
            .iter()
            .map(|run| {
                let Rates { lr, decay, .. } = self.rates(run.kind, step, lr);
                let (gradient, state) = (run.range.start, run.own.start);
                let weight = if arena.master.is_some() { state } else { gradient };
                cuda::update::Run { gradient, weight, state, len: run.range.len(), lr, decay }
            })
            .collect();
        let kind = arena.weights.kind();
        by_kind!(kind, T => {
            let (weights, copy) = match &mut arena.master {
                Some(master) => (master, Some(device_slice_mut(&mut arena.weights))),
                None => (&mut arena.weights, None),
            };
            let mut arrays = cuda::update::Arrays::<T> {
                weights: device_slice_mut(weights),
                state: self.state.iter_mut().map(device_slice_mut).collect(),
                gradient: device_slice(&arena.grads),
                copy,
            };
            match self.rule {
                Rule::Momentum(momentum) => {
                    cuda::update::momentum(on, momentum, &mut arrays, &runs)?;
                }
                Rule::Adam => {
                    let (beta1, beta2, eps) = ADAM;
                    let rule = Adam { lr, beta1, beta2, eps, decay: self.decay, step: step + 1 };
                    cuda::update::adam(on, &rule, &mut arrays, &runs)?;
                }
            }
        });
        Ok(())
    }

    fn update_on_cpu(&mut self, arena: &mut Arena, run: &Run, rates: Rates) -> Result<()> {
        let mut state: Vec<_> = self.state.iter().map(|s| narrow(s, &run.own)).collect();
        let g = narrow(&arena.grads, &run.range);
        let mut w = narrow(&arena.weights, &run.range);
        match (arena.weights.kind(), &arena.master) {
            (Kind::Float, _) => self.apply::<f32, f32>(&mut w, &mut state, &g, None, rates),
            (Kind::Double, _) => self.apply::<f64, f64>(&mut w, &mut state, &g, None, rates),
            (Kind::BFloat16, Some(master)) => {
                let mut master = narrow(master, &run.own);
                self.apply::<f32, bf16>(&mut master, &mut state, &g, Some(&mut w), rates);
            }
            (other, _) => bail!("no update rule for parameters of kind {other:?}"),
        }
        Ok(())
    }

    fn apply<W, G>(
        &self,
        w: &mut Tensor,
        state: &mut [Tensor],
        g: &Tensor,
        copy: Option<&mut Tensor>,
        Rates { lr, decay, step }: Rates,
    ) where
        W: crate::kernels::real::Wide + crate::elements::Element,
        G: crate::kernels::real::Real<Wide = W> + crate::elements::Element,
    {
        let (w, g, copy) = (slice_mut::<W>(w), slice::<G>(g), copy.map(slice_mut::<bf16>));
        match (self.rule, state) {
            (Rule::Momentum(momentum), [v]) => {
                Momentum { momentum, lr, decay }.update(w, slice_mut(v), g, copy);
            }
            (Rule::Adam, [m, v]) => {
                let (beta1, beta2, eps) = ADAM;
                let rule = Adam { lr, beta1, beta2, eps, decay, step };
                rule.update(w, slice_mut(m), slice_mut(v), g, copy);
            }
            (rule, state) => unreachable!("{rule:?} with {} state tensors", state.len()),
        }
    }

    fn update_by_libtorch(&mut self, arena: &mut Arena, run: &Run, rates: Rates) -> Result<()> {
        let Rates { lr, decay, step } = rates;
        let view = |x: &Tensor, range: &Range<usize>| narrow(x, range);
        let mut w = match &arena.master {
            Some(master) => view(master, &run.own),
            None => view(&arena.weights, &run.range),
        };
        let g = view(&arena.grads, &run.range).to_kind(w.kind());
        let mut state: Vec<_> = self.state.iter().map(|s| view(s, &run.own)).collect();
        match (self.rule, &mut state[..]) {
            (Rule::Momentum(momentum), [v]) => {
                let step = g.f_add(&(&w * decay))? * lr;
                let _ = v.f_mul_scalar_(momentum)?.f_sub_(&step)?;
                let _ = w.f_add_(v)?;
            }
            (Rule::Adam, [m, v]) => {
                let (beta1, beta2, eps) = ADAM;
                let g = g.f_add(&(&w * decay))?;
                let _ = m.f_mul_scalar_(beta1)?.f_add_(&(&g * (1.0 - beta1)))?;
                let _ = v.f_mul_scalar_(beta2)?.f_add_(&(g.f_square()? * (1.0 - beta2)))?;
                let (c1, c2) = (1.0 - beta1.powf(step as f64), 1.0 - beta2.powf(step as f64));
                let denominator = (v.f_sqrt()? * (1.0 / c2.sqrt())) + eps;
                let _ = w.f_sub_(&(m.f_div(&denominator)? * (lr / c1)))?;
            }
            (rule, state) => unreachable!("{rule:?} with {} state tensors", state.len()),
        }
        if arena.master.is_some() {
            view(&arena.weights, &run.range).f_copy_(&w)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Holders, Init, Layout, ParamSpec, Placement, Sharing};

    fn arena(sharing: Sharing) -> Arena {
        let spec = |name: &str, shape: &[i64], kind| ParamSpec {
            name: name.to_owned(),
            shape: shape.to_vec(),
            kind,
            init: Init::Normal(1.0),
            placement: Placement::Whole,
            holders: Holders::Replicas,
            layout: Layout::RowMajor,
        };
        let specs =
            vec![spec("w", &[30, 20], ParamKind::Weight), spec("b", &[30], ParamKind::Bias)];
        let mut arena = Arena::new(specs, Kind::Double, Device::Cpu, sharing);
        arena.load(|spec| Ok(spec.initial(1))).expect("shapes agree");
        let gradient =
            Tensor::arange(arena.grads.numel() as i64, (Kind::Double, Device::Cpu)) * 1e-3;
        arena.grads.copy_(&gradient.sin());
        arena
    }

    const ALONE: Sharing = Sharing { rank: 0, size: 1, bucket_bytes: usize::MAX };

    fn far(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn the_kernel_and_libtorchs_operations_agree_for_both_rules() {
        for rule in [Rule::Momentum(0.9), Rule::Adam] {
            let (mut ours, mut theirs) = (arena(ALONE), arena(ALONE));
            let mut a = Optimizer::new(rule, 5e-4, 2.0, &ours);
            let mut b = Optimizer::new(rule, 5e-4, 2.0, &theirs);
            for step in 0..3 {
                a.update(&mut ours, 0, step, 0.1).expect("known kind");
                for run in theirs.runs(0) {
                    let (lr, decay) =
                        if run.kind == ParamKind::Weight { (0.1, 5e-4) } else { (0.2, 0.0) };
                    let rates = Rates { lr, decay, step: step + 1 };
                    b.update_by_libtorch(&mut theirs, &run, rates).expect("shapes agree");
                }
            }
            assert!(far(&ours.weights, &theirs.weights) < 1e-14, "{rule:?}");
        }
    }

    #[test]
    fn ranks_that_share_the_update_do_together_what_one_does_alone() {
        let mut whole = arena(ALONE);
        Optimizer::new(Rule::Momentum(0.9), 5e-4, 2.0, &whole)
            .update(&mut whole, 0, 0, 0.1)
            .expect("known kind");
        let mut joined: Option<Tensor> = None;
        for rank in 0..3 {
            let mut part = arena(Sharing { rank, size: 3, ..ALONE });
            let before = part.weights.copy();
            let mut optimizer = Optimizer::new(Rule::Momentum(0.9), 5e-4, 2.0, &part);
            optimizer.update(&mut part, 0, 0, 0.1).expect("known kind");
            let change = &part.weights - before;
            joined = Some(match joined {
                Some(sum) => sum + change,
                None => change,
            });
        }
        let n = whole.specs().iter().map(ParamSpec::numel).sum::<usize>();
        let start = arena(ALONE).weights;
        let joined = start + narrow(&joined.expect("three ranks"), &(0..whole.weights.numel()));
        assert!(far(&narrow(&joined, &(0..n)), &narrow(&whole.weights, &(0..n))) < 1e-15);
    }
}
