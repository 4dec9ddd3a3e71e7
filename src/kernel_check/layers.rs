//! Every layer, the loss and the optimizers on a device, against the CPU in fp64.
//!
//! Each layer is given the reference's own input and a random gradient, so that an error shows where
//! it is made; those that pool are given maps without near ties. Both networks are built as for a GPU.
//! Differences are of whole tensors, in the Euclidean norm.

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use super::Outcome;
use crate::collective::Solo;
use crate::kernels::stacks::Stacks;
use crate::net::arch::Architecture;
use crate::net::build::{Plan, Site, Style};
use crate::net::{Layer, Mode, Net, Pass, loss, stack, unstack};
use crate::optim::{Optimizer, Rule};
use crate::params::{ParamSpec, Sharing};
use crate::random::{Key, Purpose};
use crate::torch_ext::{self, Algorithms, Products};

/// Images of a check.
const BATCH: i64 = 4;

const ALONE: Sharing = Sharing { rank: 0, size: 1, bucket_bytes: 1 << 22 };

const PASS: Pass<'static> = Pass {
    mode: Mode::Train,
    dropout: Key::new(1, Purpose::Dropout),
    first: 3,
    columns: &Solo,
    shares: &[],
};

/// A precision on the device and how far it may be from fp64.
struct Precision {
    name: &'static str,
    kind: Kind,
    algorithms: Algorithms,
    limit: f64,
}

const fn precision(
    name: &'static str,
    kind: Kind,
    algorithms: Algorithms,
    limit: f64,
) -> Precision {
    Precision { name, kind, algorithms, limit }
}

const PRECISIONS: [Precision; 3] = [
    precision("fp64", Kind::Double, Algorithms::Deterministic, 1e-10),
    precision("fp32", Kind::Float, Algorithms::Exact, 1e-5),
    precision("bf16", Kind::BFloat16, Algorithms::Deterministic, 1e-2),
];

/// What runs take for fp32 unless they ask for its every bit. Gradients of some filters are off by up to 4e-3
/// (docs/results/gpu.md).
const BY_CUDNN: Precision =
    precision("fp32 by cuDNN", Kind::Float, Algorithms::Deterministic, 1e-2);

pub(super) fn all(device: Device) -> Result<Vec<Outcome>> {
    // Without it cuDNN takes ten bits for twenty-three.
    torch_ext::set_products(Products::Exact);
    let mut outcomes = Vec::new();
    for name in networks(device) {
        let arch = Architecture::by_name(name, 10, 0.5);
        let arch = arch.with_context(|| format!("there is no architecture {name}"))?;
        let reference = Reference::of(&arch)?;
        for precision in PRECISIONS.iter().chain([&BY_CUDNN]) {
            outcomes.extend(reference.distances(device, precision)?);
        }
    }
    for precision in &PRECISIONS {
        outcomes.push(cross_entropy(device, precision)?);
        for rule in [Rule::Momentum(0.9), Rule::Adam] {
            outcomes.push(optimizer(rule, device, precision)?);
        }
    }
    Ok(outcomes)
}

/// The small network shows that the check works; a GPU is held to all.
fn networks(device: Device) -> &'static [&'static str] {
    match device {
        Device::Cpu => &["alexnet-cifar"],
        _ => &["alexnet", "alexnet-owt", "alexnet-cifar"],
    }
}

/// `|a - b| / |b|`; infinite if either is not finite.
fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let wide = |x: &Tensor| x.to_device(Device::Cpu).to_kind(Kind::Double);
    let (a, b) = (wide(a), wide(b));
    if a.size() != b.size() {
        return f64::INFINITY;
    }
    let norm = |x: &Tensor| x.square().sum(Kind::Double).double_value(&[]).sqrt();
    let far = norm(&(&a - &b)) / norm(&b).max(f64::MIN_POSITIVE);
    if far.is_finite() { far } else { f64::INFINITY }
}

/// Normal noise in fp64 on the CPU, of the same numbers everywhere.
fn noise(size: &[i64], stream: u64) -> Tensor {
    let key = Key::new(stream, Purpose::Generate);
    let num = size.iter().product::<i64>() as u64;
    let values: Vec<f64> = (0..num).map(|i| key.normal(i)).collect();
    Tensor::from_slice(&values).view(size)
}

/// Maps of the shape of `x`, `[N, H, W, C]`, in whose windows no two values are nearly equal, neither before
/// normalisation nor after.
///
/// Pooling takes the largest, and which of two nearly equal ones that is depends on their rounding, so in
/// another precision or on another device a gradient may go elsewhere: one of 300,000 that does is a distance
/// of 2e-3. Here the nine pixels of a window of three have nine levels that differ by 5 % or more, the same in
/// all channels; where ReLU makes zeros, all are zero, and no gradient goes through. `bias` is what the layer adds.
fn separated(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (num, height, width, channels) = x.size4()?;
    let mut levels = Vec::with_capacity((num * height * width) as usize);
    for (image, y) in (0..num).flat_map(|image| (0..height).map(move |y| (image, y))) {
        // Four has no divisor in common with nine.
        let level = |x| (3 * (y % 3) + x % 3 + image) * 4 % 9;
        levels.extend((0..width).map(|x| 1.0 + 0.1 * level(x) as f64));
    }
    let levels = Tensor::from_slice(&levels).view([num, height, width, 1]);
    let scale = noise(&[channels], 4) * 20.0;
    // None so small that its levels would be lost beside a bias in bf16.
    let scale = scale.sign() * scale.abs().clamp_min(1.0);
    Ok(levels * scale - bias)
}

fn net(plan: &Plan, initial: &[Tensor], kind: Kind, device: Device) -> Result<Net> {
    let mut arena = plan.arena(kind, device, ALONE);
    let mut values = initial.iter();
    arena.load(|spec| {
        let value = values.next().map(Tensor::shallow_clone);
        value.with_context(|| format!("{} has no value", spec.name))
    })?;
    Ok(plan.build_in(Style::Gpu, arena))
}

/// What a layer of the reference was given, and made of it.
struct Known {
    layer: String,
    given: Tensor,
    y: Tensor,
    dx: Option<Tensor>,
}

/// A network's layers and its parameters' gradients in fp64 on the CPU.
struct Reference<'a> {
    arch: &'a Architecture,
    plan: Plan,
    initial: Vec<Tensor>,
    layers: Vec<Known>,
    gradients: Vec<(ParamSpec, Tensor)>,
}

impl<'a> Reference<'a> {
    fn of(arch: &'a Architecture) -> Result<Self> {
        let plan = Plan::new(arch, Site::WHOLE)?;
        let initial: Vec<_> = plan.params.iter().map(|spec| spec.initial(1)).collect();
        let mut net = net(&plan, &initial, Kind::Double, Device::Cpu)?;
        let mut x = noise(&[BATCH, arch.input, arch.input, 3], 1) * 50.0;
        let mut layers = Vec::new();
        for (index, layer) in net.layers_mut().iter_mut().enumerate() {
            let name = layer.name().to_owned();
            let pools = name.contains("pool");
            let given = match pools {
                true => separated(&x, bias_before(&name, &plan, &initial)?)?,
                // As bf16 has it: a sum with a bias that is zero there alone would let no gradient through.
                false => x.to_kind(Kind::BFloat16).to_kind(Kind::Double),
            };
            let (y, dx) = both_passes(layer, given.copy(), index)?;
            x = if pools { forward(layer, x)? } else { y.copy() };
            layers.push(Known { layer: name, given, y, dx });
        }
        let gradients = net.arena.gradients();
        Ok(Self { arch, plan, initial, layers, gradients })
    }

    /// How far the same network is from it on a device.
    fn distances(&self, device: Device, precision: &Precision) -> Result<Vec<Outcome>> {
        let outcome = |what: String, difference| Outcome {
            name: format!("{} {what} {}", self.arch.name, precision.name),
            difference,
            limit: precision.limit,
        };
        torch_ext::set_algorithms(precision.algorithms);
        let mut net = net(&self.plan, &self.initial, precision.kind, device)?;
        let mut outcomes = Vec::new();
        for (index, (layer, known)) in net.layers_mut().iter_mut().zip(&self.layers).enumerate() {
            let given = known.given.to_kind(precision.kind).to_device(device);
            let (y, dx) = both_passes(layer, given.copy(), index)?;
            outcomes.push(outcome(format!("{} forward", known.layer), distance(&y, &known.y)));
            if let (Some(dx), Some(expected)) = (dx, &known.dx) {
                outcomes
                    .push(outcome(format!("{} backward", known.layer), distance(&dx, expected)));
            }
        }
        let gradients = net.arena.gradients().into_iter().zip(&self.gradients);
        outcomes.extend(gradients.map(|((spec, ours), (_, expected))| {
            outcome(format!("gradient of {}", spec.name), distance(&ours, expected))
        }));
        Ok(outcomes)
    }
}

/// The bias of the convolution whose map a layer pools.
fn bias_before<'a>(layer: &str, plan: &Plan, initial: &'a [Tensor]) -> Result<&'a Tensor> {
    let number: String = layer.chars().filter(char::is_ascii_digit).take(1).collect();
    let name = format!("conv{number}.bias");
    let index = plan.params.iter().position(|spec| spec.name == name);
    let index = index.with_context(|| format!("{layer}: there is no {name}"))?;
    Ok(&initial[index])
}

/// A layer's output for `x`, however it stacks its maps.
fn forward(layer: &mut Box<dyn Layer>, x: Tensor) -> Result<Tensor> {
    let Stacks { input, output } = layer.stacks();
    unstack(layer.forward(stack(x, input)?, &PASS)?, output)
}

/// A layer's output for `x`, and the gradient of `x` for a random one of the output.
fn both_passes(
    layer: &mut Box<dyn Layer>,
    x: Tensor,
    index: usize,
) -> Result<(Tensor, Option<Tensor>)> {
    let y = forward(layer, x)?;
    let dy = noise(&y.size(), 100 + index as u64).to_kind(y.kind()).to_device(y.device());
    let y = y.copy();
    let Stacks { input, output } = layer.stacks();
    let dx = layer.backward(stack(dy, output)?, &PASS)?;
    Ok((y, dx.map(|dx| unstack(dx, input)).transpose()?))
}

fn cross_entropy(device: Device, precision: &Precision) -> Result<Outcome> {
    let logits = noise(&[BATCH, 1000], 2) * 3.0;
    let labels = Tensor::from_slice(&[0i64, 999, 5, 500]);
    let expected = loss::cross_entropy(&logits, &labels, 128)?;
    let own = logits.to_kind(precision.kind).to_device(device);
    let ours = loss::cross_entropy(&own, &labels.to_device(device), 128)?;
    let difference =
        distance(&ours.value, &expected.value).max(distance(&ours.dlogits, &expected.dlogits));
    let name = format!("cross-entropy {}", precision.name);
    Ok(Outcome { name, difference, limit: precision.limit })
}

/// Two updates of a small network that shares its parameters with another replica.
fn optimizer(rule: Rule, device: Device, precision: &Precision) -> Result<Outcome> {
    let arch = Architecture::by_name("alexnet-cifar", 10, 0.5).context("no alexnet-cifar")?;
    let plan = Plan::new(&arch, Site::WHOLE)?;
    let weights_after = |kind: Kind, device: Device| -> Result<Tensor> {
        // The same buckets in elements, whatever their size in bytes.
        let bucket_bytes = kind.elt_size_in_bytes() << 20;
        let sharing = Sharing { rank: 1, size: 2, bucket_bytes };
        let mut arena = plan.arena(kind, device, sharing);
        arena.load(|spec| Ok(spec.initial(1)))?;
        let gradient = noise(&[arena.grads.numel() as i64], 3) * 0.1;
        arena.grads.f_copy_(&gradient.to_kind(kind))?;
        let mut optimizer = Optimizer::new(rule, 5e-4, 2.0, &arena);
        for step in 0..2 {
            for bucket in 0..arena.buckets().len() {
                optimizer.update(&mut arena, bucket, step, 0.01)?;
            }
        }
        Ok(arena.weights)
    };
    let difference = distance(
        &weights_after(precision.kind, device)?,
        &weights_after(Kind::Double, Device::Cpu)?,
    );
    Ok(Outcome { name: format!("{rule:?} {}", precision.name), difference, limit: precision.limit })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elements::slice;
    use crate::kernels::lrn::Lrn;

    #[test]
    fn in_no_window_of_the_maps_for_pooling_are_two_values_nearly_equal() {
        let (side, channels) = (8, 96);
        let shape = [2, side as i64, side as i64, channels as i64];
        let x = Tensor::zeros(shape, (Kind::Double, Device::Cpu));
        let bias = Tensor::ones([channels as i64], (Kind::Double, Device::Cpu));
        let x = (separated(&x, &bias).expect("four dimensions") + bias).relu();
        let mut y = vec![0.0; x.numel()];
        Lrn::PAPER.forward::<f64>(slice(&x), &mut y, channels, 2);
        let mut num_windows = 0;
        for values in [slice::<f64>(&x), &y] {
            let at = |image, row, column, channel| {
                values[((image * side + row) * side + column) * channels + channel]
            };
            for index in 0..2 * 6 * 6 * channels {
                let (pixel, channel) = (index / channels, index % channels);
                let (image, top, left) = (pixel / 36, pixel / 6 % 6, pixel % 6);
                let pixels = (0..9).map(|p| at(image, top + p / 3, left + p % 3, channel));
                let mut window: Vec<f64> = pixels.collect();
                window.sort_by(f64::total_cmp);
                let is_zero = window[8] == 0.0;
                let apart = window.windows(2).all(|pair| pair[1] > 1.02 * pair[0]);
                assert!(is_zero || apart, "{window:?}");
                num_windows += usize::from(!is_zero);
            }
        }
        assert!(num_windows > 1000, "most are not zero");
    }
}
