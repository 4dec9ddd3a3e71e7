//! A reduced paper network against PyTorch: ten losses, every gradient of the first step, and the weights
//! after the tenth (written by `scripts/golden.py`).

use std::path::Path;

use alexnet_mgpu::canonical::Tensors;
use alexnet_mgpu::checkpoint::read_tensors;
use alexnet_mgpu::collective::Solo;
use alexnet_mgpu::kernels::lrn::Lrn;
use alexnet_mgpu::net::arch::{Architecture, InitSpec, LayerSpec, Padding, WeightInit};
use alexnet_mgpu::net::build::{Plan, Site};
use alexnet_mgpu::net::{Mode, Net, Pass, loss};
use alexnet_mgpu::optim::{Optimizer, Rule};
use alexnet_mgpu::params::Sharing;
use alexnet_mgpu::random::{Key, Purpose};
use tch::{Device, Kind, Tensor};

/// The constants in the file's metadata.
const LR: f64 = 1e-3;
const DECAY: f64 = 5e-4;
const MOMENTUM: f64 = 0.9;
const BIAS_LR: f64 = 2.0;

fn reduced_paper() -> Architecture {
    use LayerSpec::{Flatten, Relu};
    let init = InitSpec { weight: WeightInit::He, bias: 0.0 };
    let conv = |name, filters, kernel, stride, padding, groups| LayerSpec::Conv {
        name,
        filters,
        kernel,
        stride,
        padding: Padding::from(padding),
        groups,
        init,
    };
    let linear = |name, outputs| LayerSpec::Linear { name, outputs, init };
    let norm = LayerSpec::Lrn { rule: Lrn::PAPER, groups: 2 };
    let pool = LayerSpec::MaxPool { kernel: 3, stride: 2 };
    let layers = vec![
        conv("conv1", 16, 11, 4, 0, 1),
        Relu,
        norm.clone(),
        pool.clone(),
        conv("conv2", 32, 5, 1, 2, 2),
        Relu,
        norm,
        pool.clone(),
        conv("conv3", 24, 3, 1, 1, 1),
        Relu,
        conv("conv4", 24, 3, 1, 1, 2),
        Relu,
        conv("conv5", 16, 3, 1, 1, 2),
        Relu,
        pool,
        Flatten,
        linear("fc6", 32),
        Relu,
        linear("fc7", 32),
        Relu,
        linear("fc8", 10),
    ];
    Architecture { name: "reduced-paper", input: 67, layers }
}

fn golden() -> Tensors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/reduced_paper.safetensors");
    read_tensors(&path).expect("scripts/golden.py wrote it")
}

fn net(golden: &Tensors, kind: Kind) -> Net {
    let plan = Plan::new(&reduced_paper(), Site::WHOLE).expect("one device");
    let sharing = Sharing { rank: 0, size: 1, bucket_bytes: usize::MAX };
    let mut net = plan.build(plan.arena(kind, Device::Cpu, sharing));
    net.arena
        .load(|spec| Ok(golden[&format!("weights.{}", spec.name)].to_kind(kind)))
        .expect("shapes agree");
    net
}

/// The largest difference relative to the largest element expected.
fn far(got: &Tensor, expected: &Tensor) -> f64 {
    let expected = expected.to_kind(Kind::Double);
    let scale = expected.abs().max().double_value(&[]);
    (got.to_kind(Kind::Double) - expected).abs().max().double_value(&[]) / scale
}

fn ten_steps_meet_pytorchs(kind: Kind, tolerance: f64) {
    let golden = golden();
    let mut net = net(&golden, kind);
    let mut optimizer = Optimizer::new(Rule::Momentum(MOMENTUM), DECAY, BIAS_LR, &net.arena);
    let dropout = Key::new(1, Purpose::Dropout);
    let pass = Pass { mode: Mode::Train, dropout, first: 0, columns: &Solo, shares: &[] };
    let num_images = golden["labels"].size()[0] as usize;
    for step in 0..10 {
        let x = golden["images"].to_kind(kind);
        let logits = net.forward(x, &pass, |_| Ok(())).expect("shapes agree");
        let loss = loss::cross_entropy(&logits, &golden["labels"], num_images).expect("as well");
        let expected = golden["losses"].double_value(&[step]);
        let got = loss.value.double_value(&[]);
        assert!((got / expected - 1.0).abs() < tolerance, "step {step}: {got}, not {expected}");
        net.backward(loss.dlogits, &pass, |_, _| Ok(())).expect("shapes agree");
        if step == 0 {
            for (spec, gradient) in net.arena.gradients() {
                let far = far(&gradient, &golden[&format!("grads.{}", spec.name)]);
                assert!(far < tolerance, "gradient of {}: {far:e}", spec.name);
            }
        }
        optimizer.update(&mut net.arena, 0, step as u64, LR).expect("a known kind");
    }
    for (spec, weight) in net.arena.gather_weights(&Solo).expect("nobody else") {
        let far = far(&weight, &golden[&format!("trained.{}", spec.name)]);
        assert!(far < tolerance, "{} after ten steps: {far:e}", spec.name);
    }
}

#[test]
fn ten_steps_in_fp32_meet_pytorchs_losses_gradients_and_weights() {
    ten_steps_meet_pytorchs(Kind::Float, 5e-6);
}

#[test]
fn ten_steps_in_fp64_meet_them_to_the_precision_they_are_stored_in() {
    ten_steps_meet_pytorchs(Kind::Double, 1e-6);
}
