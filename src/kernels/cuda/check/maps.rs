//! The kernels of feature maps against their twins.

use super::super::memory::{Buffer, Machine};
use super::super::{CudaError, lrn, relu_lrn_pool};
use super::{CheckedReal, Outcome, computed, noise, outcome, real};
use crate::kernels::lrn::Lrn;
use crate::kernels::pool::{Map, MaxPool};
use crate::kernels::real::Real;
use crate::kernels::relu_lrn_pool::ReluLrnPool;

const POOL: MaxPool = MaxPool { window: 3, stride: 2 };

/// Strong enough for the second term of the gradient to matter.
const STRONG: Lrn = Lrn { size: 5, alpha: 0.3, beta: 0.75, k: 1.5 };

/// A layer and the shape of one image's map.
struct Case {
    kernel: ReluLrnPool,
    height: usize,
    width: usize,
    channels: usize,
}

/// The layers of the paper's network, then one of odd sizes, whose input also has a NaN.
fn cases() -> [Case; 4] {
    let layer = |lrn, groups, (height, width, channels), pool| Case {
        kernel: ReluLrnPool { lrn, groups, pool },
        height,
        width,
        channels,
    };
    let odd = Lrn { size: 3, alpha: 0.2, beta: 0.6, k: 1.0 };
    [
        layer(Some(STRONG), 2, (55, 55, 96), POOL),
        layer(Some(Lrn::PAPER), 2, (27, 27, 256), POOL),
        layer(None, 1, (13, 13, 256), POOL),
        layer(Some(odd), 2, (7, 8, 12), MaxPool { window: 2, stride: 3 }),
    ]
}

pub(super) fn all<T: CheckedReal>(machine: &dyn Machine) -> Result<Vec<Outcome>, CudaError> {
    let mut outcomes = Vec::new();
    for case in cases() {
        outcomes.extend(fused::<T>(machine, &case)?);
    }
    for (rule, channels, groups) in
        [(STRONG, 64, 2), (Lrn { beta: 0.6, ..STRONG }, 36, 3), (Lrn { size: 9, ..STRONG }, 10, 2)]
    {
        outcomes.extend(alone::<T>(machine, &rule, channels, groups)?);
    }
    Ok(outcomes)
}

fn fused<T: CheckedReal>(machine: &dyn Machine, case: &Case) -> Result<Vec<Outcome>, CudaError> {
    let Case { kernel, height, width, channels } = *case;
    let map = Map { num_images: 2, height, width, channels };
    let output = kernel.pool.output(map).num_elements();
    let mut a = noise::<T>(map.num_elements(), 1, 1.0);
    if channels == 12 {
        a[5] = real(f64::NAN);
    }
    let dy = noise::<T>(output, 2, 1.0);
    let (mut y, mut argmax) = (vec![T::ZERO; output], vec![0; output]);
    kernel.forward(&a, &mut y, &mut argmax, map);
    let mut da = vec![T::ZERO; a.len()];
    kernel.backward(&a, &dy, &argmax, &mut da, map);

    let (on_a, on_dy) = (Buffer::of(machine, &a)?, Buffer::of(machine, &dy)?);
    let mut positions = Buffer::<u8>::zeros(machine, output)?;
    let our_y = computed(machine, output, |y| {
        let positions = &mut positions.slice_mut();
        relu_lrn_pool::forward(machine, &kernel, on_a.slice(), y, positions, map)
    })?;
    let our_largest = at_positions(&kernel, &a, &positions.to_vec()?, map);
    // Of nearly equal values rounding may choose another: backward is given the twin's choice.
    let on_argmax = Buffer::of(machine, &argmax)?;
    let (on_dy, on_argmax) = (on_dy.slice(), on_argmax.slice());
    let our_da = computed(machine, a.len(), |da| {
        relu_lrn_pool::backward(machine, &kernel, on_a.slice(), on_dy, on_argmax, da, map)
    })?;
    let lrn = if kernel.lrn.is_some() { "lrn+" } else { "" };
    let name = |pass| format!("relu+{lrn}pool {pass} {} {height}x{width}x{channels}", T::NAME);
    Ok(vec![
        outcome(name("forward"), &our_y, &y, T::LIMIT),
        outcome(name("positions"), &our_largest, &y, T::LIMIT),
        outcome(name("backward"), &our_da, &da, T::LIMIT),
    ])
}

/// The normalised activations at `positions` of the windows.
fn at_positions<T: Real>(kernel: &ReluLrnPool, a: &[T], positions: &[u8], map: Map) -> Vec<T> {
    let relu = |x: &T| if x.widen() <= T::Wide::ZERO { T::ZERO } else { *x };
    let activations: Vec<T> = a.iter().map(relu).collect();
    let mut values = activations.clone();
    if let Some(lrn) = kernel.lrn {
        lrn.forward(&activations, &mut values, map.channels, kernel.groups);
    }
    let (output, MaxPool { window, stride }) = (kernel.pool.output(map), kernel.pool);
    let value = |(index, position): (usize, &u8)| {
        let (channel, pixel) = (index % map.channels, index / map.channels);
        let (x, y) = (pixel % output.width, pixel / output.width % output.height);
        let image = pixel / (output.width * output.height);
        let position = usize::from(*position);
        let row = image * map.height + y * stride + position / window;
        let column = x * stride + position % window;
        let at = (row * map.width + column) * map.channels + channel;
        values.get(at).copied().unwrap_or(T::ZERO)
    };
    positions.iter().enumerate().map(value).collect()
}

fn alone<T: CheckedReal>(
    machine: &dyn Machine,
    rule: &Lrn,
    channels: usize,
    groups: usize,
) -> Result<Vec<Outcome>, CudaError> {
    let len = 50 * channels;
    let (x, dy) = (noise::<T>(len, 3, 1.0), noise::<T>(len, 4, 1.0));
    let (mut y, mut dx) = (vec![T::ZERO; len], vec![T::ZERO; len]);
    rule.forward(&x, &mut y, channels, groups);
    rule.backward(&x, &dy, &mut dx, channels, groups);
    let (on_x, on_dy) = (Buffer::of(machine, &x)?, Buffer::of(machine, &dy)?);
    let our_y =
        computed(machine, len, |y| lrn::forward(machine, rule, on_x.slice(), y, channels, groups))?;
    let our_dx = computed(machine, len, |dx| {
        lrn::backward(machine, rule, on_x.slice(), on_dy.slice(), dx, channels, groups)
    })?;
    let shape = format!("{} {channels}/{groups} channels", T::NAME);
    Ok(vec![
        outcome(format!("lrn forward {shape}"), &our_y, &y, T::LIMIT),
        outcome(format!("lrn backward {shape}"), &our_dx, &dx, T::LIMIT),
    ])
}
