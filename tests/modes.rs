//! Every mode trains the same network: in fp64, weights agree to 1e-10 after ten steps with dropout and
//! augmentation on.

use std::path::Path;

use alexnet_mgpu::canonical::Tensors;
use alexnet_mgpu::config::{Arch, Config, DeviceChoice, Gpus, Mode, Precision};
use alexnet_mgpu::data::{GeneratedSpec, generate};
use alexnet_mgpu::run::weights_after;

const NUM_STEPS: u64 = 10;

fn config(arch: Arch, data: &Path) -> Config {
    let mut config = Config::default();
    config.net.arch = arch;
    config.net.classes = 10;
    config.data.path = data.display().to_string();
    config.data.workers = 1;
    config.devices.device = DeviceChoice::Cpu;
    // Several buckets, and some that end inside the network.
    config.devices.bucket_bytes = 8 << 20;
    config.train.precision = Precision::Fp64;
    config.train.batch_size = 7;
    config
}

fn trained(base: &Config, mode: Mode, num_devices: usize) -> Tensors {
    let mut config = base.clone();
    config.devices.mode = mode;
    config.devices.gpus = Gpus::Count(num_devices);
    weights_after(&config, NUM_STEPS).expect("training runs")
}

/// The largest difference relative to the largest weight of a tensor.
fn far(a: &Tensors, b: &Tensors) -> (f64, String) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    a.iter()
        .map(|(name, x)| {
            let scale = x.abs().max().double_value(&[]).max(f64::MIN_POSITIVE);
            ((x - &b[name]).abs().max().double_value(&[]) / scale, name.clone())
        })
        .fold((0.0, String::new()), |worst, next| if next.0 > worst.0 { next } else { worst })
}

fn all_modes_agree(arch: Arch) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = dir.path().join("images");
    generate(&data, &GeneratedSpec { seed: 1, size: 64, num_train: 40, num_test: 10 })
        .expect("a writable folder");
    let base = config(arch, &data);
    let single = trained(&base, Mode::Single, 1);
    for (mode, num_devices) in [
        (Mode::DataParallel, 2),
        (Mode::DataParallel, 3),
        (Mode::DataParallel, 4),
        (Mode::Split, 2),
        (Mode::Split, 4),
    ] {
        let (difference, name) = far(&single, &trained(&base, mode, num_devices));
        assert!(difference < 1e-10, "{mode} on {num_devices}: {name} differs by {difference:e}");
    }
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
