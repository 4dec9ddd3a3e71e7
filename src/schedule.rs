//! The learning rate at each step.
//!
//! A pure function of the step, except for one rule of the paper that listens to the validation
//! error; the little that this rule remembers is a value which a checkpoint can hold. Nothing here
//! knows the configuration, the optimizer or who measures the error. Ranks that see the same errors
//! compute the same rates, bit for bit.

use serde::{Deserialize, Serialize};

/// The shape of the curve after the warm-up.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// Always the base rate.
    Constant,
    /// Falls at given times.
    Steps {
        /// The numbers of finished epochs at which the rate is multiplied by `factor`, in any
        /// order.
        at: Vec<u64>,
        /// What the rate is multiplied by.
        factor: f64,
    },
    /// Falls when the validation error stops improving: the paper's rule (§5), which a person
    /// applied by hand.
    Plateau {
        /// Evaluations in a row without improvement after which the rate falls; 0 counts as 1.
        patience: u64,
        /// What the rate is multiplied by (§5: 0.1).
        factor: f64,
        /// By how much an error must fall below the best one to be an improvement (a fraction).
        min_improvement: f64,
        /// How often the rate may fall (§5: 3).
        max_drops: u64,
    },
    /// Half a cosine from the base rate down to `final_fraction` of it at the last step
    /// (arXiv 1608.03983, without restarts).
    Cosine {
        /// The last rate as a fraction of the base rate.
        final_fraction: f64,
    },
}

/// What [`Rule::Plateau`] remembers. Other rules leave it at its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlateauState {
    /// The lowest top-1 error so far (a fraction); none before the first evaluation.
    pub best: Option<f64>,
    /// Evaluations since the last improvement or fall.
    pub waited: u64,
    /// How often the rate has fallen.
    pub drops: u64,
}

/// A rule with the numbers it applies to.
#[derive(Clone, Debug)]
pub struct Schedule {
    rule: Rule,
    base_lr: f64,
    warmup_steps: f64,
    steps_per_epoch: u64,
    total_steps: u64,
    plateau: PlateauState,
}

impl Schedule {
    /// A schedule at its start. `warmup_steps` may be fractional, as it comes from epochs.
    #[must_use]
    pub fn new(
        rule: Rule,
        base_lr: f64,
        warmup_steps: f64,
        steps_per_epoch: u64,
        total_steps: u64,
    ) -> Self {
        let steps_per_epoch = steps_per_epoch.max(1);
        let plateau = PlateauState::default();
        Self { rule, base_lr, warmup_steps, steps_per_epoch, total_steps, plateau }
    }

    /// The learning rate of the step with this index, counted from 0 over the whole run.
    #[must_use]
    pub fn rate(&self, step: u64) -> f64 {
        self.shaped(step) * self.warmup(step)
    }

    /// Takes note of an evaluation's top-1 error (a fraction). Only [`Rule::Plateau`] listens; an
    /// error that is not a number is no improvement.
    pub fn observe(&mut self, top1_error: f64) {
        let Rule::Plateau { patience, min_improvement, max_drops, .. } = self.rule else { return };
        let state = &mut self.plateau;
        if improves(top1_error, state.best, min_improvement) {
            state.best = Some(top1_error);
            state.waited = 0;
            return;
        }
        state.waited += 1;
        if state.waited >= patience && state.drops < max_drops {
            state.drops += 1;
            state.waited = 0;
        }
    }

    /// What a checkpoint must hold for [`Schedule::restore`].
    #[must_use]
    pub fn state(&self) -> PlateauState {
        self.plateau
    }

    /// Continues from a saved state: the rates are those of a schedule that was never interrupted.
    pub fn restore(&mut self, state: PlateauState) {
        self.plateau = state;
    }

    /// The rate without warm-up.
    fn shaped(&self, step: u64) -> f64 {
        match &self.rule {
            Rule::Constant => self.base_lr,
            Rule::Steps { at, factor } => {
                let epochs = step / self.steps_per_epoch;
                let drops = at.iter().filter(|&&epoch| epoch <= epochs).count();
                self.dropped(*factor, drops as u64)
            }
            Rule::Plateau { factor, .. } => self.dropped(*factor, self.plateau.drops),
            Rule::Cosine { final_fraction } => self.base_lr * self.cosine(step, *final_fraction),
        }
    }

    /// The base rate after `drops` falls. A product, as the precision of `powi` is unspecified.
    fn dropped(&self, factor: f64, drops: u64) -> f64 {
        (0..drops).fold(self.base_lr, |rate, _| rate * factor)
    }

    /// `f + (1 - f) (1 + cos πt) / 2`, with `t` from 0 at the end of the warm-up to 1 at the last
    /// step.
    fn cosine(&self, step: u64, final_fraction: f64) -> f64 {
        let last = self.total_steps.saturating_sub(1) as f64;
        let span = (last - self.warmup_steps).max(1.0);
        let t = ((step as f64 - self.warmup_steps) / span).clamp(0.0, 1.0);
        let half = (1.0 + (std::f64::consts::PI * t).cos()) / 2.0;
        final_fraction + (1.0 - final_fraction) * half
    }

    /// Rises linearly from 0 to 1. A step counts at its end, so that none is wasted on a rate of 0.
    fn warmup(&self, step: u64) -> f64 {
        let done = (step + 1) as f64;
        if done < self.warmup_steps { done / self.warmup_steps } else { 1.0 }
    }
}

/// Whether `error` is below `best` by at least `min_improvement`.
fn improves(error: f64, best: Option<f64>, min_improvement: f64) -> bool {
    match best {
        None => !error.is_nan(),
        Some(best) => error < best && best - error >= min_improvement,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plateau(patience: u64) -> Schedule {
        let rule = Rule::Plateau { patience, factor: 0.5, min_improvement: 0.25, max_drops: 2 };
        Schedule::new(rule, 1.0, 0.0, 10, 100)
    }

    fn rates_after(schedule: &mut Schedule, errors: &[f64]) -> Vec<f64> {
        let rate_after = |&error: &f64| {
            schedule.observe(error);
            schedule.rate(0)
        };
        errors.iter().map(rate_after).collect()
    }

    #[test]
    fn steps_fall_with_the_first_step_of_the_named_epochs() {
        let rule = Rule::Steps { at: vec![51, 25, 79], factor: 0.5 };
        let schedule = Schedule::new(rule, 0.01, 0.0, 10, 900);
        let rates = [249, 250, 509, 510, 789, 790, 899].map(|step| schedule.rate(step));
        assert_eq!(rates, [0.01, 0.005, 0.005, 0.0025, 0.0025, 0.00125, 0.00125]);
    }

    #[test]
    fn cosine_starts_at_the_base_and_ends_at_the_final_fraction() {
        let schedule = Schedule::new(Rule::Cosine { final_fraction: 0.1 }, 2.0, 0.0, 10, 101);
        assert_eq!(schedule.rate(0), 2.0);
        assert!((schedule.rate(50) - 1.1).abs() < 1e-12, "{}", schedule.rate(50));
        assert!((schedule.rate(100) - 0.2).abs() < 1e-12, "{}", schedule.rate(100));
        assert_eq!(schedule.rate(1000), schedule.rate(100));
        assert!((1..101).all(|step| schedule.rate(step) < schedule.rate(step - 1)));
    }

    #[test]
    fn every_rule_warms_up_linearly_and_without_a_step_at_zero() {
        let rules = [
            Rule::Constant,
            Rule::Steps { at: vec![3], factor: 0.1 },
            Rule::Plateau { patience: 1, factor: 0.1, min_improvement: 0.0, max_drops: 1 },
            Rule::Cosine { final_fraction: 0.0 },
        ];
        for rule in rules {
            let schedule = Schedule::new(rule.clone(), 1.0, 4.0, 10, 100);
            let rates = [0, 1, 2, 3, 4].map(|step| schedule.rate(step));
            assert_eq!(rates, [0.25, 0.5, 0.75, 1.0, 1.0], "{rule:?}");
        }
    }

    #[test]
    fn a_run_of_one_step_and_one_shorter_than_its_warm_up_have_finite_rates() {
        for (warmup, total) in [(0.0, 1), (50.0, 10), (0.5, 0)] {
            let rule = Rule::Cosine { final_fraction: 0.0 };
            let schedule = Schedule::new(rule, 1.0, warmup, 10, total);
            let rate = schedule.rate(0);
            assert!(rate > 0.0 && rate <= 1.0, "{warmup} {total}: {rate}");
        }
    }

    #[test]
    fn the_rate_falls_after_patience_evaluations_without_improvement_and_not_too_often() {
        let errors = [0.875, 0.875, 0.75, 0.5, 0.5, 0.5, f64::NAN, 0.375, 0.5, 0.5];
        let rates = rates_after(&mut plateau(2), &errors);
        assert_eq!(rates, [1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25]);
    }

    #[test]
    fn an_improvement_must_reach_the_minimum() {
        assert_eq!(rates_after(&mut plateau(1), &[1.0, 0.75]), [1.0, 1.0]);
        assert_eq!(rates_after(&mut plateau(1), &[1.0, 0.875]), [1.0, 0.5]);
        assert_eq!(rates_after(&mut plateau(1), &[f64::NAN, 0.5]), [0.5, 0.5]);
    }

    #[test]
    fn a_restored_schedule_continues_as_if_never_interrupted() {
        let errors = [0.9, 0.8, 0.1, 0.3, 0.3, 0.3, 0.2, 0.05];
        let uninterrupted = rates_after(&mut plateau(2), &errors);
        for cut in 0..errors.len() {
            let mut first = plateau(2);
            let mut rates = rates_after(&mut first, &errors[..cut]);
            let mut second = plateau(2);
            second.restore(first.state());
            rates.extend(rates_after(&mut second, &errors[cut..]));
            assert_eq!(rates, uninterrupted, "cut at {cut}");
        }
    }

    #[test]
    fn the_state_before_the_first_evaluation_survives_serialisation() {
        let state = PlateauState::default();
        let text = serde_json::to_string(&state).expect("plain numbers");
        assert_eq!(serde_json::from_str::<PlateauState>(&text).expect("its own text"), state);
    }
}
