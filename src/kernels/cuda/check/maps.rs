//! The kernels of feature maps against their twins.

use super::super::machine::{Buffer, Machine};
use super::super::relu_lrn_pool::Input as On;
use super::super::{CudaError, bias, fold, lrn, relu_lrn_pool};
use super::{CheckedReal, Outcome, computed, noise, outcome, real, value};
use crate::kernels::bias as bias_twin;
use crate::kernels::fold::Fold;
use crate::kernels::lrn::Lrn;
use crate::kernels::pool::{Map, MaxPool};
use crate::kernels::real::Real;
use crate::kernels::relu_lrn_pool::ReluLrnPool;
use crate::kernels::stacks::Stacks;

const POOL: MaxPool = MaxPool { window: 3, stride: 2 };

/// Strong enough for the second term of the gradient to matter on noise of scale 1.
const STRONG: Lrn = Lrn { size: 5, alpha: 0.3, beta: 0.75, k: 1.5 };

/// What is special about the noise that a layer is given.
#[derive(Clone, Copy, PartialEq)]
enum Input {
    /// Nothing, with this standard deviation.
    Scaled(f64),
    /// It is whole numbers, so that windows have several largest.
    Tied,
    /// A number is none.
    WithNan,
}

/// A layer, the shape of one image's map and its input.
struct Case {
    kernel: ReluLrnPool,
    height: usize,
    width: usize,
    channels: usize,
    input: Input,
    stacks: Stacks,
}

/// Maps as large as the paper's and windows as they lie there.
///
/// The paper's constants are for activations of a hundred: there the sum is as large as k.
fn of_the_paper() -> [Case; 3] {
    [
        Case::new(Some(STRONG), 2, (55, 55, 96), POOL, Input::Scaled(1.0)),
        Case::new(Some(Lrn::PAPER), 2, (27, 27, 256), POOL, Input::Scaled(100.0)),
        Case::new(None, 1, (13, 13, 256), POOL, Input::Tied),
    ]
}

/// Windows that share two rows with the next, windows apart from each other in a map of odd sizes, whose input
/// also has a NaN, and stacked maps.
fn of_odd_shapes() -> [Case; 5] {
    let stacked = |input, output, case| Case { stacks: Stacks { input, output }, ..case };
    let odd = Lrn { size: 3, alpha: 0.2, beta: 0.6, k: 1.0 };
    let [dense, apart] = [(3, 1), (2, 3)].map(|(window, stride)| MaxPool { window, stride });
    [
        Case::new(Some(STRONG), 2, (9, 8, 48), dense, Input::Scaled(1.0)),
        Case::new(Some(odd), 2, (7, 8, 12), apart, Input::WithNan),
        stacked(1, 2, Case::new(Some(STRONG), 2, (9, 8, 96), POOL, Input::Scaled(1.0))),
        stacked(2, 1, Case::new(Some(STRONG), 4, (7, 9, 64), POOL, Input::Scaled(1.0))),
        stacked(2, 1, Case::new(None, 1, (6, 7, 48), POOL, Input::Tied)),
    ]
}

impl Case {
    /// One whose maps are not stacked.
    fn new(
        lrn: Option<Lrn>,
        groups: usize,
        (height, width, channels): (usize, usize, usize),
        pool: MaxPool,
        input: Input,
    ) -> Self {
        let kernel = ReluLrnPool { lrn, groups, pool };
        Self { kernel, height, width, channels, input, stacks: Stacks::ONE }
    }
}

impl Input {
    fn elements<T: CheckedReal>(self, len: usize) -> Vec<T> {
        match self {
            Self::Scaled(scale) => noise(len, 1, scale),
            Self::Tied => noise::<T>(len, 1, 2.0).iter().map(|x| real(value(*x).round())).collect(),
            Self::WithNan => {
                let mut elements = noise(len, 1, 1.0);
                elements[5] = real(f64::NAN);
                elements
            }
        }
    }
}

/// Fused layers on [`of_the_paper`].
pub(super) fn large<T: CheckedReal>(machine: &dyn Machine) -> Result<Vec<Outcome>, CudaError> {
    with_and_without_bias::<T>(machine, &of_the_paper())
}

/// Fused layers on [`of_odd_shapes`].
pub(super) fn odd<T: CheckedReal>(machine: &dyn Machine) -> Result<Vec<Outcome>, CudaError> {
    with_and_without_bias::<T>(machine, &of_odd_shapes())
}

fn with_and_without_bias<T: CheckedReal>(
    machine: &dyn Machine,
    cases: &[Case],
) -> Result<Vec<Outcome>, CudaError> {
    let mut outcomes = Vec::new();
    for case in cases {
        for bias in [Bias::None, Bias::Added] {
            outcomes.extend(fused::<T>(machine, case, bias)?);
        }
    }
    Ok(outcomes)
}

/// What else there is for maps: biases, folded inputs and normalisation alone.
pub(super) fn other<T: CheckedReal>(machine: &dyn Machine) -> Result<Vec<Outcome>, CudaError> {
    let mut outcomes = Vec::new();
    for (rows, channels) in [(600, 96), (70_000, 12), (3, 4096), (9, 7)] {
        outcomes.extend(biased::<T>(machine, rows, channels)?);
    }
    for (rows, channels, stacks) in [(50, 384, 2), (31, 36, 3)] {
        outcomes.extend(rectified::<T>(machine, rows, channels, stacks)?);
    }
    let conv1 = Fold { stride: 4, padding: 2, rows: 9, columns: 8 };
    for (kernel, side) in [(conv1, 30), (Fold { stride: 3, padding: 0, rows: 2, columns: 3 }, 8)] {
        outcomes.push(folded::<T>(machine, kernel, side)?);
    }
    for (rule, channels, groups) in
        [(STRONG, 64, 2), (Lrn { beta: 0.6, ..STRONG }, 36, 3), (Lrn { size: 9, ..STRONG }, 10, 2)]
    {
        outcomes.extend(alone::<T>(machine, &rule, channels, groups)?);
    }
    Ok(outcomes)
}

/// Whether the map still lacks its biases.
#[derive(Clone, Copy, PartialEq)]
enum Bias {
    None,
    Added,
}

fn fused<T: CheckedReal>(
    machine: &dyn Machine,
    case: &Case,
    lacking: Bias,
) -> Result<Vec<Outcome>, CudaError> {
    let Case { kernel, height, width, channels, input, stacks } = *case;
    let map = Map { num_images: 2, height, width, channels };
    let output = kernel.pool.output(map);
    let mut a = input.elements::<T>(map.num_elements());
    let on_a = Buffer::of(machine, &stacked(&a, map, stacks.input))?;
    let scale = if let Input::Scaled(scale) = input { scale } else { 1.0 };
    let of_channels = noise::<T>(channels, 12, scale);
    let on_bias = Buffer::of(machine, &of_channels)?;
    let bias = (lacking == Bias::Added).then(|| on_bias.slice());
    if bias.is_some() {
        bias_twin::add(&mut a, &of_channels);
    }
    let on = On { a: on_a.slice(), bias, map, stacks };
    let dy = noise::<T>(output.num_elements(), 2, 1.0);
    let (mut y, mut argmax) = (vec![T::ZERO; dy.len()], vec![0; dy.len()]);
    kernel.forward(&a, &mut y, &mut argmax, map);
    let mut da = vec![T::ZERO; a.len()];
    kernel.backward(&a, &dy, &argmax, &mut da, map);

    let on_dy = Buffer::of(machine, &stacked(&dy, output, stacks.output))?;
    let lrn = if kernel.lrn.is_some() { "lrn+" } else { "" };
    let MaxPool { window, stride } = kernel.pool;
    let Stacks { input: from, output: to } = stacks;
    let how_stacked =
        if stacks == Stacks::ONE { String::new() } else { format!(" stacked {from} to {to}") };
    let shape = format!("{window}/{stride} {} {height}x{width}x{channels}{how_stacked}", T::NAME);
    let first = if bias.is_some() { "bias+" } else { "" };
    let name = |pass: &str| format!("{first}relu+{lrn}pool {pass} {shape}");
    let mut outcomes = Vec::new();
    // As the number of threads chooses, in one piece, in two of which the second is shorter, and by rows.
    for strips in [None, Some(1), Some(2), Some(output.height)] {
        let mut positions = Buffer::<u8>::zeros(machine, dy.len())?;
        let our_y = computed(machine, dy.len(), |y| {
            let positions = &mut positions.slice_mut();
            match strips {
                None => relu_lrn_pool::forward(machine, &kernel, on, y, positions),
                Some(num) => {
                    relu_lrn_pool::forward_in_strips(machine, &kernel, on, y, positions, num)
                }
            }
        })?;
        let our_y = unstacked(&our_y, output, stacks.output);
        let positions = unstacked(&positions.to_vec()?, output, stacks.output);
        let our_largest = at_positions(&kernel, &a, &positions, map);
        let how = strips.map_or_else(String::new, |num| format!(" in {num} strips"));
        outcomes.push(outcome(name("forward") + &how, &our_y, &y, T::LIMIT));
        outcomes.push(outcome(name("positions") + &how, &our_largest, &y, T::LIMIT));
        if input == Input::Tied && lacking == Bias::None {
            outcomes.push(same_choices(name("first of equals") + &how, &positions, (&argmax, &y)));
        }
    }
    // Of nearly equal values rounding may choose another: backward is given the twin's choice.
    let on_argmax = Buffer::of(machine, &stacked(&argmax, output, stacks.output))?;
    let (on_dy, on_argmax) = (on_dy.slice(), on_argmax.slice());
    let our_da = computed(machine, a.len(), |da| {
        relu_lrn_pool::backward(machine, &kernel, on, on_dy, on_argmax, da)
    })?;
    let our_da = unstacked(&our_da, map, stacks.input);
    outcomes.push(outcome(name("backward"), &our_da, &da, T::LIMIT));
    Ok(outcomes)
}

fn biased<T: CheckedReal>(
    machine: &dyn Machine,
    rows: usize,
    channels: usize,
) -> Result<Vec<Outcome>, CudaError> {
    let (mut a, bias) = (noise::<T>(rows * channels, 13, 1.0), noise::<T>(channels, 14, 1.0));
    let (on_a, on_bias) = (Buffer::of(machine, &a)?, Buffer::of(machine, &bias)?);
    let len = bias::num_partial_sums(rows, channels);
    let mut partial = Buffer::<T::Wide>::zeros(machine, len)?;
    let our_db = computed(machine, channels, |db| {
        bias::gradient(machine, on_a.slice(), &mut partial.slice_mut(), db)
    })?;
    let mut db = vec![T::ZERO; channels];
    bias_twin::gradient(&a, &mut db);
    let mut on_a = on_a;
    bias::relu(machine, &mut on_a.slice_mut(), on_bias.slice())?;
    bias_twin::add(&mut a, &bias);
    let a: Vec<T> = a.iter().map(activation).collect();
    let shape = format!("{} {rows}x{channels}", T::NAME);
    Ok(vec![
        outcome(format!("bias+relu {shape}"), &on_a.to_vec()?, &a, 0.0),
        outcome(format!("bias gradient {shape}"), &our_db, &db, T::LIMIT),
    ])
}

/// ReLU between a map and its stacks, and its gradient on the way back.
fn rectified<T: CheckedReal>(
    machine: &dyn Machine,
    rows: usize,
    channels: usize,
    stacks: usize,
) -> Result<Vec<Outcome>, CudaError> {
    let map = Map { num_images: rows, height: 1, width: 1, channels };
    let (mut a, bias) = (noise::<T>(rows * channels, 16, 1.0), noise::<T>(channels, 17, 1.0));
    let dy = noise::<T>(rows * channels, 18, 1.0);
    let (on_a, on_bias) = (Buffer::of(machine, &a)?, Buffer::of(machine, &bias)?);
    let on_dy = Buffer::of(machine, &stacked(&dy, map, stacks))?;
    let mut on_y = Buffer::<T>::zeros(machine, a.len())?;
    let (from, to) = (on_a.slice(), &mut on_y.slice_mut());
    bias::relu_into_stacks(machine, from, on_bias.slice(), to, stacks)?;
    let our_da = computed(machine, a.len(), |da| {
        bias::unrelu_from_stacks(machine, [on_y.slice(), on_dy.slice()], da, channels, stacks)
    })?;
    bias_twin::add(&mut a, &bias);
    let y: Vec<T> = a.iter().map(activation).collect();
    let gradient = |(y, dy): (&T, &T)| if y.widen() <= T::Wide::ZERO { T::ZERO } else { *dy };
    let da: Vec<T> = y.iter().zip(&dy).map(gradient).collect();
    let our_y = unstacked(&on_y.to_vec()?, map, stacks);
    let shape = format!("{} {rows}x{channels} in {stacks} stacks", T::NAME);
    Ok(vec![
        outcome(format!("bias+relu {shape}"), &our_y, &y, 0.0),
        outcome(format!("relu backward {shape}"), &our_da, &da, 0.0),
    ])
}

/// A map in so many stacks.
fn stacked<T: Copy>(x: &[T], map: Map, stacks: usize) -> Vec<T> {
    let width = map.channels / stacks;
    let rows = |stack| x.chunks(map.channels).flat_map(move |row| &row[stack * width..][..width]);
    (0..stacks).flat_map(rows).copied().collect()
}

/// The way back.
fn unstacked<T: Copy>(x: &[T], map: Map, stacks: usize) -> Vec<T> {
    let (width, num_rows) = (map.channels / stacks, x.len() / map.channels);
    let row =
        |row| (0..stacks).flat_map(move |stack| &x[(stack * num_rows + row) * width..][..width]);
    (0..num_rows).flat_map(row).copied().collect()
}

fn folded<T: CheckedReal>(
    machine: &dyn Machine,
    kernel: Fold,
    side: usize,
) -> Result<Outcome, CudaError> {
    let map = Map { num_images: 2, height: side, width: side, channels: 3 };
    let images = noise::<T>(map.num_elements(), 15, 1.0);
    let mut twin = vec![real::<T>(f64::NAN); kernel.output(map).num_elements()];
    kernel.run(&images, &mut twin, map);
    let on_images = Buffer::of(machine, &images)?;
    let ours = computed(machine, twin.len(), |out| {
        fold::fold(machine, &kernel, on_images.slice(), out, map)
    })?;
    let name = format!("fold {} {side}x{side} in squares of {}", T::NAME, kernel.stride);
    Ok(outcome(name, &ours, &twin, 0.0))
}

fn activation<T: Real>(x: &T) -> T {
    if x.widen() <= T::Wide::ZERO { T::ZERO } else { *x }
}

/// Counts the windows in which another position was chosen than by the twin. Where no activation is positive
/// any will do: none gets a gradient.
fn same_choices<T: CheckedReal>(name: String, ours: &[u8], (twins, y): (&[u8], &[T])) -> Outcome {
    let choices = ours.iter().zip(twins).zip(y);
    let others = choices.filter(|((ours, twin), y)| ours != twin && value(**y) > 0.0).count();
    Outcome { name, difference: others as f64, limit: 0.0 }
}

/// The normalised activations at `positions` of the windows.
fn at_positions<T: Real>(kernel: &ReluLrnPool, a: &[T], positions: &[u8], map: Map) -> Vec<T> {
    let activations: Vec<T> = a.iter().map(activation).collect();
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
