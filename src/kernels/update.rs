//! The optimisers' updates of the flat parameter arena, one pass over memory each.
//!
//! The gradient may be narrower than the weights, and a copy of the new weights in bfloat16 may be
//! written on the way. The module does not know which element belongs to which layer.

use super::real::{Real, Wide};
use super::simd::{self, Kernel};
use half::bf16;
use rayon::prelude::*;

/// Elements per task: few enough for the new weights to be in cache still when they are copied.
const TASK: usize = 1 << 14;

/// The paper's update (section 5), with the learning rate inside the velocity:
/// v = momentum v - decay lr w - lr g, then w += v.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Momentum {
    /// The share of the velocity that survives a step; 0.9 in the paper.
    pub momentum: f64,
    /// The learning rate.
    pub lr: f64,
    /// The weight decay; 0.0005 in the paper.
    pub decay: f64,
}

impl Momentum {
    /// The factor of the weights in the velocity.
    pub(super) fn shrink(&self) -> f64 {
        self.decay * self.lr
    }

    /// Updates `weights` and `velocity` by `gradient`, and writes the new weights to `copy` if one is
    /// given.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn update<W: Wide, G: Real<Wide = W>>(
        &self,
        weights: &mut [W],
        velocity: &mut [W],
        gradient: &[G],
        copy: Option<&mut [bf16]>,
    ) {
        check_lengths(weights.len(), &[velocity.len(), gradient.len()], copy.as_deref());
        let tasks = weights
            .par_chunks_mut(TASK)
            .zip(velocity.par_chunks_mut(TASK))
            .zip(gradient.par_chunks(TASK));
        let run = |((weights, velocity), gradient), copy| {
            simd::run(MomentumTask { rule: self, weights, velocity, gradient, copy });
        };
        match copy {
            Some(copy) => {
                tasks.zip(copy.par_chunks_mut(TASK)).for_each(|(task, copy)| run(task, copy));
            }
            None => tasks.for_each(|task| run(task, &mut [])),
        }
    }
}

struct MomentumTask<'a, W, G> {
    rule: &'a Momentum,
    weights: &'a mut [W],
    velocity: &'a mut [W],
    gradient: &'a [G],
    copy: &'a mut [bf16],
}

impl<W: Wide, G: Real<Wide = W>> Kernel for MomentumTask<'_, W, G> {
    #[inline(always)]
    fn run(self) {
        let momentum = W::from_f64(self.rule.momentum);
        let shrink = W::from_f64(self.rule.shrink());
        let lr = W::from_f64(self.rule.lr);
        for ((w, v), g) in self.weights.iter_mut().zip(self.velocity).zip(self.gradient) {
            *v = momentum * *v - shrink * *w - lr * g.widen();
            *w = *w + *v;
        }
        copy_narrowed(self.weights, self.copy);
    }
}

/// Adam (Kingma and Ba 2015), with the decay added to the gradient as `torch.optim.Adam` does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// The learning rate.
    pub lr: f64,
    /// The share of the first moment that survives a step.
    pub beta1: f64,
    /// The share of the second moment that survives a step.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// The weight decay.
    pub decay: f64,
    /// The number of this step, from 1.
    pub step: u64,
}

impl Adam {
    /// What of either moment is kept and how much of the new is taken, first then second; the factor
    /// that corrects the second's root for its start at zero; epsilon.
    pub(super) fn factors(&self) -> [f64; 6] {
        let Self { beta1, beta2, eps, step, .. } = *self;
        let bias2 = 1.0 - beta2.powf(step as f64);
        assert!(step > 0, "adam: steps are counted from 1");
        [beta1, 1.0 - beta1, beta2, 1.0 - beta2, 1.0 / bias2.sqrt(), eps]
    }

    /// The learning rate, corrected for the first moment's start at zero.
    pub(super) fn unbiased_rate(&self) -> f64 {
        self.lr / (1.0 - self.beta1.powf(self.step as f64))
    }

    /// Updates `weights` and both moments by `gradient`, and writes the new weights to `copy` if one
    /// is given.
    ///
    /// # Panics
    /// If the lengths differ, or `step` is 0.
    pub fn update<W: Wide, G: Real<Wide = W>>(
        &self,
        weights: &mut [W],
        first_moment: &mut [W],
        second_moment: &mut [W],
        gradient: &[G],
        copy: Option<&mut [bf16]>,
    ) {
        let lengths = [first_moment.len(), second_moment.len(), gradient.len()];
        check_lengths(weights.len(), &lengths, copy.as_deref());
        let tasks = weights
            .par_chunks_mut(TASK)
            .zip(first_moment.par_chunks_mut(TASK))
            .zip(second_moment.par_chunks_mut(TASK))
            .zip(gradient.par_chunks(TASK));
        let run = |(((weights, first_moment), second_moment), gradient), copy| {
            let task =
                AdamTask { rule: self, weights, first_moment, second_moment, gradient, copy };
            simd::run(task);
        };
        match copy {
            Some(copy) => {
                tasks.zip(copy.par_chunks_mut(TASK)).for_each(|(task, copy)| run(task, copy));
            }
            None => tasks.for_each(|task| run(task, &mut [])),
        }
    }
}

struct AdamTask<'a, W, G> {
    rule: &'a Adam,
    weights: &'a mut [W],
    first_moment: &'a mut [W],
    second_moment: &'a mut [W],
    gradient: &'a [G],
    copy: &'a mut [bf16],
}

impl<W: Wide, G: Real<Wide = W>> Kernel for AdamTask<'_, W, G> {
    #[inline(always)]
    fn run(self) {
        let [keep1, take1, keep2, take2, unbias2, eps] = self.rule.factors().map(W::from_f64);
        let (rate, decay) = (W::from_f64(self.rule.unbiased_rate()), W::from_f64(self.rule.decay));
        let moments = self.first_moment.iter_mut().zip(self.second_moment);
        for ((w, (m, v)), g) in self.weights.iter_mut().zip(moments).zip(self.gradient) {
            let g = g.widen() + decay * *w;
            *m = keep1 * *m + take1 * g;
            *v = keep2 * *v + take2 * g * g;
            *w = *w - rate * *m / (v.sqrt() * unbias2 + eps);
        }
        copy_narrowed(self.weights, self.copy);
    }
}

/// Writes `weights` to `copy`, unless it is empty.
#[inline(always)]
fn copy_narrowed<W: Wide>(weights: &[W], copy: &mut [bf16]) {
    for (copy, w) in copy.iter_mut().zip(weights) {
        *copy = w.to_bf16();
    }
}

fn check_lengths(num_weights: usize, others: &[usize], copy: Option<&[bf16]>) {
    for &other in others.iter().chain(copy.map(<[_]>::len).iter()) {
        assert_eq!(num_weights, other, "update: every slice must be as long as the weights");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    /// More than two tasks and not a multiple of any vector.
    const NUM: usize = 2 * TASK + 37;

    fn noise(stream: u64) -> Vec<f64> {
        let key = Key::new(stream, Purpose::Init);
        (0..NUM as u64).map(|i| key.normal(i)).collect()
    }

    fn f32s(values: &[f64]) -> Vec<f32> {
        values.iter().map(|&v| v as f32).collect()
    }

    fn assert_close(actual: &[f32], expected: &[f64]) {
        for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
            assert!(
                (f64::from(*a) - e).abs() <= 2e-6 * (1.0 + e.abs()),
                "element {i}: {a} not {e}"
            );
        }
    }

    const MOMENTUM: Momentum = Momentum { momentum: 0.9, lr: 0.01, decay: 5e-4 };

    #[test]
    fn momentum_is_the_paper_s_rule_over_two_steps() {
        let gradient = noise(3);
        let (mut w, mut v) = (noise(1), noise(2));
        let (mut w32, mut v32) = (f32s(&w), f32s(&v));
        let (mut w64, mut v64) = (w.clone(), v.clone());
        for _ in 0..2 {
            for i in 0..NUM {
                v[i] = 0.9 * v[i] - 5e-4 * 0.01 * w[i] - 0.01 * gradient[i];
                w[i] += v[i];
            }
            MOMENTUM.update(&mut w32, &mut v32, &f32s(&gradient), None);
            MOMENTUM.update(&mut w64, &mut v64, &gradient, None);
        }
        assert_close(&w32, &w);
        assert_close(&v32, &v);
        assert!(w64.iter().zip(&w).all(|(a, e)| (a - e).abs() < 1e-14));
    }

    #[test]
    fn the_copy_is_the_new_weights_rounded() {
        let gradient: Vec<bf16> = noise(3).into_iter().map(bf16::from_f64).collect();
        let (mut w, mut v) = (f32s(&noise(1)), f32s(&noise(2)));
        let (mut plain_w, mut plain_v) = (w.clone(), v.clone());
        let mut copy = vec![bf16::ZERO; NUM];
        MOMENTUM.update(&mut w, &mut v, &gradient, Some(&mut copy));
        MOMENTUM.update(&mut plain_w, &mut plain_v, &gradient, None);
        assert_eq!(w, plain_w);
        assert!(copy.iter().zip(&w).all(|(c, w)| c.to_bits() == bf16::from_f32(*w).to_bits()));

        let adam = Adam { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.1, step: 1 };
        let mut second: Vec<f32> = v.iter().map(|v| v * v).collect();
        adam.update(&mut w, &mut v, &mut second, &gradient, Some(&mut copy));
        assert!(copy.iter().zip(&w).all(|(c, w)| c.to_bits() == bf16::from_f32(*w).to_bits()));
    }

    #[test]
    fn adam_is_the_published_rule_over_three_steps() {
        let gradient = noise(3);
        let (mut w, mut m, mut v) = (noise(1), vec![0.0; NUM], vec![0.0; NUM]);
        let (mut w32, mut m32, mut v32) = (f32s(&w), f32s(&m), f32s(&v));
        for step in 1..=3 {
            let power = step as i32;
            for i in 0..NUM {
                let g = gradient[i] + 0.01 * w[i];
                m[i] = 0.9 * m[i] + (1.0 - 0.9) * g;
                v[i] = 0.999 * v[i] + (1.0 - 0.999) * g * g;
                let (mean, square) =
                    (m[i] / (1.0 - 0.9f64.powi(power)), v[i] / (1.0 - 0.999f64.powi(power)));
                w[i] -= 0.1 * mean / (square.sqrt() + 1e-8);
            }
            let adam = Adam { lr: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.01, step };
            adam.update(&mut w32, &mut m32, &mut v32, &f32s(&gradient), None);
        }
        assert_close(&w32, &w);
        assert_close(&m32, &m);
        assert_close(&v32, &v);
    }

    #[test]
    #[should_panic(expected = "as long as the weights")]
    fn a_gradient_of_another_length_is_refused() {
        MOMENTUM.update(&mut [0.0f32; 2], &mut [0.0; 2], &[0.0f32; 3], None);
    }
}
