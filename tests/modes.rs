//! Every mode trains the same network: in fp64, weights agree to 1e-10 after ten steps with dropout and
//! augmentation on.

use std::sync::Arc;

use alexnet_mgpu::canonical::Tensors;
use alexnet_mgpu::config::{Arch, Config, DeviceChoice, Finish, Gpus, Mode, Precision, Wire};
use alexnet_mgpu::data::{Batch, GeneratedSpec, Pixels, generate};
use alexnet_mgpu::run::{architecture, drawn, weights_after, worker, world};
use alexnet_mgpu::verify::{TOLERANCE, config, differences};

/// A folder of images, and a run over them that uses the devices of `run`.
fn with_images(
    arch: Arch,
    num_steps: u64,
    check: impl FnOnce(&Config, &dyn Fn(Mode, usize, Wire) -> Tensors),
) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = dir.path().join("images");
    generate(&data, &GeneratedSpec { seed: 1, size: 64, num_train: 40, num_test: 10 })
        .expect("a writable folder");
    let mut base = config(arch, &data);
    base.devices.device = DeviceChoice::Cpu;
    check(&base, &|mode, num_devices, wire| {
        let mut config = base.clone();
        config.devices.mode = mode;
        config.devices.gpus = Gpus::Count(num_devices);
        config.devices.wire = wire;
        weights_after(&config, num_steps).expect("training runs")
    });
}

fn all_modes_agree(arch: Arch) {
    with_images(arch, 10, |_, run| {
        let single = run(Mode::Single, 1, Wire::Computed);
        for (mode, num_devices) in [
            (Mode::DataParallel, 2),
            (Mode::DataParallel, 3),
            (Mode::DataParallel, 4),
            (Mode::Split, 2),
            (Mode::Split, 4),
            (Mode::Hybrid, 2),
            // Neither 4096 units nor ten classes divide by three.
            (Mode::Hybrid, 3),
            (Mode::Hybrid, 4),
        ] {
            let weights = run(mode, num_devices, Wire::Computed);
            for (name, far) in differences(&single, &weights) {
                assert!(far < TOLERANCE, "{mode} on {num_devices}: {name} differs by {far:e}");
            }
        }
    });
}

#[test]
fn all_modes_train_the_same_paper_network() {
    all_modes_agree(Arch::Alexnet);
}

#[test]
fn all_modes_train_the_same_one_column_network() {
    all_modes_agree(Arch::AlexnetOwt);
}

#[test]
fn all_modes_train_the_same_small_network() {
    all_modes_agree(Arch::AlexnetCifar);
}

/// How far training moved each tensor, and how far `other` ended up from `weights`, as norms.
fn moves(start: &Tensors, weights: &Tensors, other: &Tensors) -> Vec<(String, f64, f64)> {
    let norm = |a: &Tensors, b: &Tensors, name: &str| {
        (&a[name] - &b[name]).square().sum(tch::Kind::Double).sqrt().double_value(&[])
    };
    let all = weights.keys();
    all.map(|name| (name.clone(), norm(start, weights, name), norm(weights, other, name))).collect()
}

#[test]
fn values_that_travel_in_bf16_change_what_is_learnt_by_their_rounding_only() {
    with_images(Arch::AlexnetCifar, 1, |base, run| {
        let start = weights_after(base, 0).expect("nothing to train");
        let single = run(Mode::Single, 1, Wire::Computed);
        // A bf16 is off by 0.4 % at most. Gradients are sums of such values; an activation that is off
        // can also fall on the other side of a ReLU or of a maximum, which changes one unit entirely.
        // The last layer has nothing of the kind above it.
        for (mode, num_devices, last, others) in [
            (Mode::DataParallel, 3, 0.003, 0.003),
            (Mode::Split, 2, 0.01, 0.15),
            (Mode::Hybrid, 3, 0.01, 0.15),
        ] {
            let weights = run(mode, num_devices, Wire::Bf16);
            for (name, moved, far) in moves(&start, &single, &weights) {
                let limit = if name.starts_with("fc8") { last } else { others };
                assert!(far < limit * moved, "{mode}: {name} moved {moved:e}, off by {far:e}");
                assert!(far > 1e-4 * moved, "{mode}: {name} is as if nothing had been rounded");
            }
        }
        assert_eq!(run(Mode::Single, 1, Wire::Bf16), single, "alone, nothing travels");
    });
}

#[test]
fn where_the_last_pass_over_pixels_is_made_changes_no_bit() {
    with_images(Arch::AlexnetCifar, 3, |base, _| {
        for precision in [Precision::Fp32, Precision::Bf16, Precision::Fp64] {
            let weights = |finish: Finish| {
                let mut config = base.clone();
                (config.data.finish, config.data.pad) = (finish, 4);
                config.train.precision = precision;
                (config.devices.mode, config.devices.gpus) = (Mode::Split, Gpus::Count(2));
                weights_after(&config, 3).expect("training runs")
            };
            let by_loader = weights(Finish::Loader);
            assert_eq!(weights(Finish::Device), by_loader, "{precision}");
            assert_eq!(weights(Finish::Auto), by_loader, "{precision}");
        }
    });
}

#[test]
fn a_slice_whose_images_overflow_blames_a_layer_without_waiting_for_the_others() {
    let mut config = Config::default();
    config.net.arch = Arch::AlexnetCifar;
    config.devices.device = DeviceChoice::Cpu;
    (config.devices.mode, config.devices.gpus) = (Mode::Hybrid, Gpus::Count(3));
    config.train.batch_size = 3;
    let world = world(&config).expect("CPU devices");
    let arch = architecture(&config, 10).expect("known");
    let error = world.run(|place| {
        let pixel = if place.rank == 1 { 3e38 } else { 1.0 };
        let images = Pixels::F32(vec![pixel; 32 * 32 * 3]);
        let batch = Arc::new(Batch::standalone(place.replica, images, vec![0]));
        worker(&config, &arch, &world, place, drawn(&config))?.step(&batch, 0, 0.01).map(|_| ())
    });
    let text = format!("{:#}", error.expect_err("one image is beyond fp32"));
    assert!(text.contains("rank 1 of 3") && text.contains("not finite: conv1"), "{text}");
}
