//! Every mode trains the same network: in fp64, weights agree to 1e-10 after ten steps with dropout and
//! augmentation on.

use alexnet_mgpu::config::{Arch, DeviceChoice, Gpus, Mode};
use alexnet_mgpu::data::{GeneratedSpec, generate};
use alexnet_mgpu::run::weights_after;
use alexnet_mgpu::verify::{TOLERANCE, config, differences};

const NUM_STEPS: u64 = 10;

fn all_modes_agree(arch: Arch) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = dir.path().join("images");
    generate(&data, &GeneratedSpec { seed: 1, size: 64, num_train: 40, num_test: 10 })
        .expect("a writable folder");
    let mut base = config(arch, &data);
    base.devices.device = DeviceChoice::Cpu;
    let single = weights_after(&base, NUM_STEPS).expect("training runs");
    for (mode, num_devices) in [
        (Mode::DataParallel, 2),
        (Mode::DataParallel, 3),
        (Mode::DataParallel, 4),
        (Mode::Split, 2),
        (Mode::Split, 4),
    ] {
        let mut other = base.clone();
        other.devices.mode = mode;
        other.devices.gpus = Gpus::Count(num_devices);
        let weights = weights_after(&other, NUM_STEPS).expect("training runs");
        for (name, far) in differences(&single, &weights) {
            assert!(far < TOLERANCE, "{mode} on {num_devices}: {name} differs by {far:e}");
        }
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
