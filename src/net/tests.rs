//! Every layer's backward pass against two independent answers, in fp64: libtorch's autograd on the same
//! function written with its operations, and finite differences of the layer's own forward pass.

use tch::{Device, Kind, Tensor};

use super::build::{Plan, Site, Style};
use super::conv::{Conv, Groups};
use super::dropout::Dropout;
use super::flatten::Flatten;
use super::fused::ReluLrnPool;
use super::linear::Linear;
use super::lrn::Lrn;
use super::pool::MaxPool;
use super::relu::Relu;
use super::{Images, Layer, Mode, Net, Pass, stack, unstack};
use crate::collective::{Collective, Solo};
use crate::kernels;
use crate::kernels::stacks::Stacks;
use crate::params::{
    Arena, Holders, Init, Layout, Param, ParamKind, ParamSpec, Placement, Sharing,
};
use crate::random::{Key, Purpose};
use crate::torch_ext::{ConvGeometry, InputGradient};

mod exchange;

const OPTIONS: (Kind, Device) = (Kind::Double, Device::Cpu);
const POOL: kernels::pool::MaxPool = kernels::pool::MaxPool { window: 3, stride: 2 };
/// Strong enough for the window to matter with inputs near one.
const NORM: kernels::lrn::Lrn = kernels::lrn::Lrn { size: 5, alpha: 0.1, beta: 0.75, k: 2.0 };

fn pass(columns: &dyn Collective) -> Pass<'_> {
    Pass {
        mode: Mode::Train,
        dropout: Key::new(1, Purpose::Dropout),
        first: 3,
        columns,
        shares: &[],
    }
}

/// Numbers all of different size, with room between them for a finite difference: no ties, no kinks.
fn input(shape: &[i64], stream: u64) -> Tensor {
    let num = shape.iter().product::<i64>();
    let key = Key::new(stream, Purpose::Init);
    let mut order: Vec<i64> = (0..num).collect();
    order.sort_by_key(|&i| key.bits(i as u64));
    let spread = Tensor::from_slice(&order).to_kind(Kind::Double) + 0.5;
    ((spread / num as f64 - 0.5) * 4.0).view(shape)
}

/// A weight and a bias in an arena of their own, with the values that `input` gives.
fn parameters(shape: &[i64]) -> (Param, Param) {
    let spec = |name: &str, shape: &[i64], layout| ParamSpec {
        name: name.to_owned(),
        shape: shape.to_vec(),
        kind: ParamKind::Weight,
        init: Init::Constant(0.0),
        placement: Placement::Whole,
        holders: Holders::Replicas,
        layout,
    };
    let layout = if shape.len() == 4 { Layout::ChannelsLast } else { Layout::RowMajor };
    let specs = vec![spec("w", shape, layout), spec("b", &shape[..1], Layout::RowMajor)];
    let sharing = Sharing { rank: 0, size: 1, bucket_bytes: usize::MAX };
    let mut arena = Arena::new(specs, Kind::Double, Device::Cpu, sharing);
    arena.load(|spec| Ok(input(&spec.shape, spec.shape.len() as u64))).expect("shapes agree");
    (arena.param(0), arena.param(1))
}

/// Handles on the same memory, to look at what a layer that owns the others does to it.
fn share(param: &Param) -> Param {
    let (weight, grad) = (param.weight.shallow_clone(), param.grad.shallow_clone());
    Param { weight, grad, range: param.range.clone() }
}

fn nchw(x: &Tensor) -> Tensor {
    x.permute([0, 3, 1, 2])
}

fn nhwc(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1])
}

#[track_caller]
fn assert_close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(got.size(), expected.size(), "{what}");
    let far = (got - expected).abs().max().double_value(&[]);
    let scale = expected.abs().max().double_value(&[]);
    assert!(scale > 1e-3, "{what}: a gradient of nothing proves nothing");
    assert!(far <= tolerance * scale, "{what}: off by {far:e} of {scale:e}");
}

/// The sum of the layer's output weighted by `dy`.
fn weighted(layer: &mut dyn Layer, x: &Tensor, dy: &Tensor) -> f64 {
    let y = layer.forward(x.copy(), &pass(&Solo)).expect("shapes agree");
    (y * dy).sum(Kind::Double).double_value(&[])
}

/// `d weighted / d at`, by differences, at some of the elements of `at`, which `forward` reads.
fn differences(at: &mut Tensor, mut value: impl FnMut() -> f64) -> Vec<(i64, f64)> {
    const STEP: f64 = 1e-5;
    let (key, num) = (Key::new(9, Purpose::Init), at.numel() as u64);
    let elements: Vec<i64> = (0..12).map(|i| key.below(i, num) as i64).collect();
    let mut shifted = |element: i64, by: f64| {
        let index = unravel(element, &at.size());
        let old = at.double_value(&index);
        set(at, &index, old + by);
        let value = value();
        set(at, &index, old);
        value
    };
    let slope = |element| {
        let rise = shifted(element, STEP) - shifted(element, -STEP);
        (element, rise / (2.0 * STEP))
    };
    elements.into_iter().map(slope).collect()
}

fn unravel(element: i64, shape: &[i64]) -> Vec<i64> {
    let mut rest = element;
    let mut index: Vec<i64> = shape
        .iter()
        .rev()
        .map(|&size| {
            let at = rest % size;
            rest /= size;
            at
        })
        .collect();
    index.reverse();
    index
}

fn set(x: &Tensor, index: &[i64], value: f64) {
    let element = index.iter().fold(x.shallow_clone(), |x, &i| x.select(0, i));
    let _ = element.shallow_clone().fill_(value);
}

#[track_caller]
fn assert_slopes(what: &str, gradient: &Tensor, slopes: &[(i64, f64)]) {
    let scale = gradient.abs().max().double_value(&[]);
    for &(element, slope) in slopes {
        let got = gradient.double_value(&unravel(element, &gradient.size()));
        let far = (got - slope).abs();
        assert!(far < 1e-7 * scale.max(1.0), "{what}, element {element}: {got}, not {slope}");
    }
}

/// Holds `layer` against autograd of `reference(x, parameters)` and against finite differences.
fn check(
    mut layer: impl Layer,
    shape: &[i64],
    params: &[Param],
    reference: impl Fn(&Tensor, &[Tensor]) -> Tensor,
) {
    let mut x = input(shape, 11);
    let leaf = |t: &Tensor| t.copy().set_requires_grad(true);
    let (x_leaf, leaves) = (leaf(&x), params.iter().map(|p| leaf(&p.weight)).collect::<Vec<_>>());
    let expected = reference(&x_leaf, &leaves);

    let y = layer.forward(x.copy(), &pass(&Solo)).expect("shapes agree");
    assert_close("forward", &y, &expected.detach(), 1e-12);
    let dy = input(&y.size(), 12);
    let dx = layer.backward(dy.copy(), &pass(&Solo)).expect("after a forward");
    (&expected * &dy).sum(Kind::Double).backward();
    if let Some(dx) = &dx {
        assert_close("dx", dx, &x_leaf.grad(), 1e-12);
    }
    for (param, leaf) in params.iter().zip(&leaves) {
        assert_close("a parameter's gradient", &param.grad, &leaf.grad(), 1e-12);
    }

    if let Some(dx) = dx {
        let seen = x.shallow_clone();
        assert_slopes("dx", &dx, &differences(&mut x, || weighted(&mut layer, &seen, &dy)));
    }
    for param in params {
        let gradient = param.grad.copy();
        let mut weight = param.weight.shallow_clone();
        let slopes = differences(&mut weight, || weighted(&mut layer, &x, &dy));
        assert_slopes("a parameter's gradient", &gradient, &slopes);
    }
}

fn check_conv(shape: &[i64], filters: [i64; 4], geometry: ConvGeometry, gradient: InputGradient) {
    let ways = [Groups::Grouped, Groups::AsOne];
    for computed in ways.into_iter().take(if geometry.groups > 1 { 2 } else { 1 }) {
        let (w, b) = parameters(&filters);
        let layer = Conv::new("conv".into(), share(&w), share(&b), geometry, gradient);
        check(layer.with_groups(computed), shape, &[w, b], |x, params| {
            convolved(x, params, geometry)
        });
    }
}

/// A convolution by libtorch, channels last.
fn convolved(x: &Tensor, params: &[Tensor], geometry: ConvGeometry) -> Tensor {
    let ConvGeometry { stride, padding, groups } = geometry;
    let (stride, padding) = ([stride; 2], [padding; 2]);
    nhwc(&nchw(x).conv2d(&params[0], Some(&params[1]), stride, padding, [1, 1], groups))
}

#[test]
fn a_convolution() {
    let geometry = ConvGeometry { stride: 1, padding: 2, groups: 2 };
    check_conv(&[2, 7, 6, 4], [6, 2, 5, 5], geometry, InputGradient::Needed);
    let geometry = ConvGeometry { stride: 2, padding: 1, groups: 1 };
    check_conv(&[2, 9, 9, 3], [4, 3, 3, 3], geometry, InputGradient::Needed);
}

#[test]
fn a_convolution_of_stacked_maps() {
    for (groups, padding) in [(2, 2), (1, 1), (3, 0)] {
        let geometry = ConvGeometry { stride: 1, padding, groups };
        let (w, b) = parameters(&[2 * groups, 3, 5, 5]);
        let layer = Conv::new("conv".into(), share(&w), share(&b), geometry, InputGradient::Needed);
        let layer = layer.with_groups(Groups::Stacked);
        let stacks = groups as usize;
        assert_eq!(layer.stacks(), Stacks { input: stacks, output: stacks });
        check(layer, &[2 * groups, 7, 6, 3], &[w, b], |x, params| {
            let x = unstack(x.shallow_clone(), stacks).expect("of stacks");
            stack(convolved(&x, params, geometry), stacks).expect("of groups")
        });
    }
}

#[test]
fn the_first_convolution_on_its_folded_input() {
    for (side, padding) in [(31, 0), (28, 2), (33, 1)] {
        let geometry = ConvGeometry { stride: 4, padding, groups: 1 };
        check_conv(&[2, side, side, 3], [5, 3, 11, 11], geometry, InputGradient::Unused);
    }
}

#[test]
fn a_fully_connected_layer() {
    let (w, b) = parameters(&[7, 10]);
    let layer = Linear::new("fc".into(), share(&w), share(&b));
    check(layer, &[4, 10], &[w, b], |x, params| x.linear(&params[0], Some(&params[1])));
}

/// Output and gradients of the layer that is made of parameters of `kind`, on an input of this shape.
fn computed<L: Layer>(
    layer: impl Fn(Param, Param) -> L,
    weights: &[i64],
    kind: Kind,
    shape: &[i64],
) -> [Tensor; 4] {
    let (w, b) = parameters(weights);
    let of_kind = |param: Param| Param {
        weight: param.weight.to_kind(kind),
        grad: param.grad.to_kind(kind),
        range: param.range,
    };
    let (w, b) = (of_kind(w), of_kind(b));
    let mut layer = layer(share(&w), share(&b));
    let y = layer.forward(input(shape, 11).to_kind(kind), &pass(&Solo)).expect("shapes agree");
    let dy = input(&y.size(), 12).to_kind(kind);
    let dx = layer.backward(dy, &pass(&Solo)).expect("after a forward").expect("asked for");
    let results = [y, dx, w.grad, b.grad];
    assert!(results.iter().all(|result| result.kind() == kind));
    results
}

/// Whatever products are computed in (`product`): processors differ in that.
#[track_caller]
fn assert_near_in_bf16<L: Layer>(
    layer: impl Fn(Param, Param) -> L,
    weights: &[i64],
    shape: &[i64],
) {
    let [got, expected] =
        [Kind::BFloat16, Kind::Double].map(|kind| computed(&layer, weights, kind, shape));
    for (what, (got, expected)) in ["y", "dx", "dw", "db"].iter().zip(got.iter().zip(&expected)) {
        assert_close(what, &got.to_kind(Kind::Double), expected, 1e-2);
    }
}

#[test]
fn products_in_bf16_are_near_those_in_fp64() {
    let geometry = ConvGeometry { stride: 2, padding: 1, groups: 2 };
    let conv = |w, b| Conv::new("conv".into(), w, b, geometry, InputGradient::Needed);
    assert_near_in_bf16(conv, &[6, 4, 3, 3], &[2, 9, 9, 8]);
    assert_near_in_bf16(|w, b| Linear::new("fc".into(), w, b), &[7, 300], &[9, 300]);
}

/// A network, and images for it.
fn built(arch: &str, style: Style) -> (Net, Tensor) {
    let arch = super::arch::Architecture::by_name(arch, 10, 0.5).expect("known");
    let plan = Plan::new(&arch, Site::WHOLE).expect("one device");
    let sharing = Sharing { rank: 0, size: 1, bucket_bytes: 1 << 22 };
    let mut arena = plan.arena(Kind::Double, Device::Cpu, sharing);
    arena.load(|spec| Ok(spec.initial(1))).expect("every shape");
    (plan.build_in(style, arena), input(&[2, arch.input, arch.input, 3], 1) * 30.0)
}

/// Logits, and all parameters' gradients after a step.
fn network(arch: &str, style: Style) -> (Tensor, Tensor) {
    let ((mut net, images), pass) = (built(arch, style), pass(&Solo));
    let logits = net.forward(images, &pass, |_| Ok(())).expect("shapes agree");
    net.backward(logits.ones_like() - &logits, &pass, |_, _| Ok(())).expect("after a forward");
    (logits, net.arena.grads.copy())
}

/// What every layer makes of images in evaluation, by its last step's name.
fn evaluated(arch: &str, style: Style) -> Vec<(String, Tensor)> {
    let (mut net, images) = built(arch, style);
    let pass = Pass { mode: Mode::Eval, ..pass(&Solo) };
    let outputs = net.activations(images, &pass).expect("shapes agree");
    let last = |name: String| name.rsplit('+').next().unwrap_or_default().to_owned();
    outputs.into_iter().map(|(name, y)| (last(name), y)).collect()
}

#[test]
fn every_layer_of_a_network_built_for_gpus_evaluates_as_libtorch_alone_does() {
    for (arch, num_common) in [("alexnet", 18), ("alexnet-cifar", 20)] {
        let expected = evaluated(arch, Style::Plain);
        let mut num_compared = 0;
        for (name, y) in evaluated(arch, Style::Gpu) {
            let (_, expected) = expected.iter().find(|(own, _)| *own == name).expect("a step");
            assert_close(&name, &y, expected, 1e-12);
            num_compared += 1;
        }
        assert_eq!(num_compared, num_common, "{arch}");
    }
}

#[test]
fn networks_as_they_are_built_for_gpus_are_those_of_cpus_and_of_libtorch_alone() {
    for arch in ["alexnet", "alexnet-cifar"] {
        let (logits, gradients) = network(arch, Style::Plain);
        for style in [Style::Cpu, Style::Gpu] {
            let (own_logits, own_gradients) = network(arch, style);
            assert_close(arch, &own_logits, &logits, 1e-12);
            assert_close(arch, &own_gradients, &gradients, 1e-12);
        }
    }
}

#[test]
fn relu() {
    check(Relu::new("relu".into(), None), &[3, 4, 4, 5], &[], |x, _| x.relu());
    let (_, b) = parameters(&[5, 1]);
    let biased = Relu::new("relu".into(), Some(share(&b)));
    check(biased, &[3, 4, 4, 5], &[b], |x, params| (x + &params[0]).relu());
}

/// LRN by its formula (paper §3.3), channel by channel.
fn normalised(x: &Tensor, groups: i64) -> Tensor {
    let channels = x.size()[3];
    let group = channels / groups;
    let half = (NORM.size / 2) as i64;
    let outputs: Vec<_> = (0..channels)
        .map(|c| {
            let first = c / group * group;
            let (from, to) = ((c - half).max(first), (c + half + 1).min(first + group));
            let sum = x.narrow(3, from, to - from).square().sum_dim_intlist(
                &[3i64][..],
                true,
                Kind::Double,
            );
            x.narrow(3, c, 1) * (sum * NORM.alpha + NORM.k).pow_tensor_scalar(-NORM.beta)
        })
        .collect();
    Tensor::cat(&outputs, 3)
}

fn pooled(x: &Tensor) -> Tensor {
    nhwc(&nchw(x).max_pool2d([3, 3], [2, 2], [0, 0], [1, 1], false))
}

#[test]
fn local_response_normalisation() {
    for groups in [1, 2] {
        let layer = Lrn::new("norm".into(), NORM, groups);
        check(layer, &[2, 3, 3, 14], &[], |x, _| normalised(x, groups as i64));
    }
}

#[test]
fn overlapping_pooling() {
    check(MaxPool::new("pool".into(), POOL), &[2, 7, 8, 18], &[], |x, _| pooled(x));
}

#[test]
fn relu_normalisation_and_pooling_fused() {
    for lrn in [Some(NORM), None] {
        let rule = kernels::relu_lrn_pool::ReluLrnPool { lrn, groups: 2, pool: POOL };
        let reference = |x: Tensor| {
            let x = x.relu();
            pooled(&if lrn.is_some() { normalised(&x, 2) } else { x })
        };
        let layer = |bias| ReluLrnPool::new("relu+norm+pool".into(), rule, bias);
        check(layer(None), &[2, 7, 7, 18], &[], |x, _| reference(x.shallow_clone()));
        let (_, b) = parameters(&[18, 1]);
        check(layer(Some(share(&b))), &[2, 7, 7, 18], &[b], |x, params| reference(x + &params[0]));
    }
}

#[test]
fn flattening_puts_channels_before_rows_as_checkpoints_do() {
    check(Flatten::new("flatten".into()), &[2, 3, 4, 5], &[], |x, _| nchw(x).reshape([2, -1]));
}

#[test]
fn dropout() {
    // The mask is the layer's own: what it makes of ones.
    let layer = || Dropout::new("drop".into(), 0.4, 5, Images::Share);
    let mask = layer().forward(Tensor::ones([6, 30], OPTIONS), &pass(&Solo)).expect("two dims");
    let kept = mask.gt(0.0).sum(Kind::Int64).int64_value(&[]);
    assert!((70..146).contains(&kept), "{kept} of 180 units kept at a rate of 0.4");
    check(layer(), &[6, 30], &[], |x, _| x * &mask);
}
