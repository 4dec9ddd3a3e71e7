//! The kernels of vectors and of pixels against their twins.

use half::bf16;

use super::super::machine::{Buffer, Machine};
use super::super::update::{Arrays, Run};
use super::super::{CudaError, cross_entropy, dropout, finish, update};
use super::{CheckedReal, Outcome, computed, noise, outcome, real, value};
use crate::kernels::dropout::Dropout;
use crate::kernels::finish::Finish;
use crate::kernels::real::Real;
use crate::kernels::update::{Adam, Momentum};
use crate::random::{Key, Purpose};

pub(super) fn all<T: CheckedReal>(machine: &dyn Machine) -> Result<Vec<Outcome>, CudaError> {
    let mut outcomes = vec![dropped::<T>(machine, 96)?, dropped::<T>(machine, 33)?];
    outcomes.extend(momentum::<T>(machine)?);
    outcomes.extend(adam::<T>(machine)?);
    outcomes.extend(softmax::<T>(machine)?);
    outcomes.push(finished::<T, 13>(machine)?);
    // Narrower than what a thread of bf16 or fp32 reads at once.
    outcomes.push(finished::<T, 5>(machine)?);
    Ok(outcomes)
}

fn dropped<T: CheckedReal>(machine: &dyn Machine, num_units: usize) -> Result<Outcome, CudaError> {
    let rule = Dropout { rate: 0.3, scale: 1.0 / 0.7 };
    let (layer, first_row) = (Key::new(7, Purpose::Dropout).with(11), 1 << 33);
    let x = noise::<T>(5 * num_units, 5, 1.0);
    let units = (1 << 34) + 3..(1 << 34) + 3 + num_units as u64;
    let mut y = vec![T::ZERO; x.len()];
    rule.apply(&x, &mut y, units.clone(), |row| layer.with(first_row + row as u64));
    let on_x = Buffer::of(machine, &x)?;
    let ours = computed(machine, x.len(), |y| {
        dropout::apply(machine, &rule, on_x.slice(), y, units, (layer, first_row))
    })?;
    Ok(outcome(format!("dropout {} of {num_units} units", T::NAME), &ours, &y, 0.0))
}

/// A run of weights and one of biases, and a gap before, between and after them.
const RUNS: [Run; 2] = [
    Run { gradient: 64, weight: 32, state: 16, len: 5003, lr: 0.1, decay: 5e-4 },
    Run { gradient: 5184, weight: 5120, state: 5056, len: 7, lr: 0.2, decay: 0.0 },
];

/// Elements of each array of an update.
const LEN: usize = 5248;

/// Weights, two states, gradients and a copy of the weights before an update.
struct Parameters<T: Real> {
    weights: Vec<T::Wide>,
    state: [Vec<T::Wide>; 2],
    gradient: Vec<T>,
    copy: Vec<bf16>,
}

impl<T: CheckedReal> Parameters<T> {
    fn new() -> Self {
        let positive = |v: Vec<T::Wide>| -> Vec<T::Wide> { v.iter().map(|&x| x * x).collect() };
        Self {
            weights: noise(LEN, 6, 1.0),
            state: [noise(LEN, 7, 0.1), positive(noise(LEN, 8, 0.1))],
            gradient: noise(LEN, 9, 1.0),
            copy: vec![bf16::ZERO; LEN],
        }
    }

    /// Applies the twin `rule` to a run's weights, states, gradient and copy.
    fn by_twin(mut self, mut rule: impl FnMut(&Run, TwinRun<'_, T>)) -> Self {
        for run in &RUNS {
            let [first, second] = &mut self.state;
            rule(
                run,
                (
                    &mut self.weights[run.weight..][..run.len],
                    [&mut first[run.state..][..run.len], &mut second[run.state..][..run.len]],
                    &self.gradient[run.gradient..][..run.len],
                    &mut self.copy[run.gradient..][..run.len],
                ),
            );
        }
        self
    }

    /// Applies `kernel`, with as many states as it takes.
    fn by_kernel(
        mut self,
        machine: &dyn Machine,
        num_states: usize,
        kernel: impl FnOnce(&mut Arrays<'_, T>) -> Result<(), CudaError>,
    ) -> Result<Self, CudaError> {
        let mut weights = Buffer::of(machine, &self.weights)?;
        let states = self.state.iter().take(num_states).map(|s| Buffer::of(machine, s));
        let mut states = states.collect::<Result<Vec<_>, _>>()?;
        let gradient = Buffer::of(machine, &self.gradient)?;
        let mut copy = Buffer::of(machine, &self.copy)?;
        kernel(&mut Arrays {
            weights: weights.slice_mut(),
            state: states.iter_mut().map(Buffer::slice_mut).collect(),
            gradient: gradient.slice(),
            copy: Some(copy.slice_mut()),
        })?;
        self.weights = weights.to_vec()?;
        self.copy = copy.to_vec()?;
        for (state, buffer) in self.state.iter_mut().zip(&states) {
            *state = buffer.to_vec()?;
        }
        Ok(self)
    }

    fn outcomes(&self, twin: &Self, rule: &str) -> Vec<Outcome> {
        let name = |what: &str| format!("{rule} {what} {}", T::NAME);
        let widened = |wide: &[T::Wide]| -> Vec<f64> { wide.iter().map(|&x| x.into()).collect() };
        let wide = |what: &str, ours: &[T::Wide], twins: &[T::Wide]| {
            outcome(name(what), &widened(ours), &widened(twins), 0.0)
        };
        vec![
            wide("weights", &self.weights, &twin.weights),
            wide("first state", &self.state[0], &twin.state[0]),
            wide("second state", &self.state[1], &twin.state[1]),
            outcome(name("copy"), &self.copy, &twin.copy, 0.0),
        ]
    }
}

/// Weights, states, gradient and copy of one run.
type TwinRun<'a, T> =
    (&'a mut [<T as Real>::Wide], [&'a mut [<T as Real>::Wide]; 2], &'a [T], &'a mut [bf16]);

fn momentum<T: CheckedReal>(machine: &dyn Machine) -> Result<Vec<Outcome>, CudaError> {
    let twin = Parameters::<T>::new().by_twin(|run, (weights, [velocity, _], gradient, copy)| {
        let rule = Momentum { momentum: 0.9, lr: run.lr, decay: run.decay };
        rule.update(weights, velocity, gradient, Some(copy));
    });
    let ours = Parameters::<T>::new()
        .by_kernel(machine, 1, |arrays| update::momentum(machine, 0.9, arrays, &RUNS))?;
    Ok(ours.outcomes(&twin, "momentum"))
}

fn adam<T: CheckedReal>(machine: &dyn Machine) -> Result<Vec<Outcome>, CudaError> {
    let rule = Adam { lr: 0.0, beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.0, step: 3 };
    let twin =
        Parameters::<T>::new().by_twin(|run, (weights, [mean, variance], gradient, copy)| {
            let rule = Adam { lr: run.lr, decay: run.decay, ..rule };
            rule.update(weights, mean, variance, gradient, Some(copy));
        });
    let ours = Parameters::<T>::new()
        .by_kernel(machine, 2, |arrays| update::adam(machine, &rule, arrays, &RUNS))?;
    Ok(ours.outcomes(&twin, "adam"))
}

fn softmax<T: CheckedReal>(machine: &dyn Machine) -> Result<Vec<Outcome>, CudaError> {
    const CLASSES: usize = 1000;
    let scale = 1.0 / 128.0;
    let logits = noise::<T>(3 * CLASSES, 10, 4.0);
    let labels = [999i64, 0, 500];
    let (mut losses, mut gradient) = (Vec::new(), Vec::new());
    for (row, label) in logits.chunks(CLASSES).zip(labels) {
        let row: Vec<f64> = row.iter().map(|&x| value(x)).collect();
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|l| (l - largest).exp()).sum();
        losses.push(real::<T::Wide>((sum.ln() + largest - row[label as usize]) * scale));
        gradient.extend(row.iter().enumerate().map(|(class, l)| {
            let one = if class as i64 == label { 1.0 } else { 0.0 };
            real::<T>(((l - largest).exp() / sum - one) * scale)
        }));
    }
    let (on_logits, on_labels) = (Buffer::of(machine, &logits)?, Buffer::of(machine, &labels)?);
    let mut our_losses = Buffer::zeros(machine, labels.len())?;
    let ours = computed(machine, logits.len(), |dlogits| {
        let losses = &mut our_losses.slice_mut();
        let (logits, labels) = (on_logits.slice(), on_labels.slice());
        cross_entropy::cross_entropy(machine, logits, labels, dlogits, losses, scale)
    })?;
    let widened = |wide: &[T::Wide]| -> Vec<f64> { wide.iter().map(|&x| x.into()).collect() };
    let (our_losses, losses) = (widened(&our_losses.to_vec()?), widened(&losses));
    let name = |what| format!("cross-entropy {what} {}", T::NAME);
    Ok(vec![
        outcome(name("loss"), &our_losses, &losses, T::LIMIT),
        outcome(name("gradient"), &ours, &gradient, T::LIMIT),
    ])
}

fn finished<T: CheckedReal, const CROP: usize>(
    machine: &dyn Machine,
) -> Result<Outcome, CudaError> {
    let full = CROP as i32;
    let windows = [
        [0, 0, full, full, 0],
        [0, 0, full, full, 1],
        [-2, -3, full - 2, full - 3, 1],
        [0, 0, full / 2 + 2, full / 2 + 1, 0],
        [-1, -4, full - 4, full / 3 + 1, 1],
    ];
    let offset = |i: usize| [-1.25f32, 0.5, 3.75].map(|x| x * (i as f32 - 1.5));
    let offsets: [[f32; 3]; 5] = std::array::from_fn(offset);
    let scale = [1.0f32 / 57.3, 0.5, 1.0];
    let key = Key::new(3, Purpose::Generate);
    let num_values = windows.len() * CROP * CROP * 3;
    let pixels: Vec<u8> = (0..num_values as u64).map(|i| key.below(i, 256) as u8).collect();
    let (windows, offsets) = (&windows[..], &offsets[..]);
    let mut twin = vec![T::ZERO; num_values];
    Finish { pixels: &pixels, crop: CROP, windows, offsets, scale }.run(&mut twin);
    let on_pixels = Buffer::of(machine, &pixels)?;
    let on_windows = Buffer::of(machine, windows.as_flattened())?;
    let on_offsets = Buffer::of(machine, offsets.as_flattened())?;
    let images = finish::Finish {
        pixels: on_pixels.slice(),
        crop: CROP,
        windows: on_windows.slice(),
        offsets: on_offsets.slice(),
        scale,
    };
    let ours = computed(machine, num_values, |out| finish::finish(machine, &images, out))?;
    Ok(outcome(format!("finish {} {CROP}x{CROP}", T::NAME), &ours, &twin, 0.0))
}
