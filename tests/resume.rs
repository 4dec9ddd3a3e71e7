//! A run that was stopped and resumed is the run that was not, bit for bit, in every mode and mid-epoch;
//! and a checkpoint goes on in any other mode.

use std::path::{Path, PathBuf};

use alexnet_mgpu::checkpoint::{self, Checkpoint};
use alexnet_mgpu::config::{Arch, Config, DeviceChoice, Gpus, Mode, Precision, Resume};
use alexnet_mgpu::data::{GeneratedSpec, generate};
use alexnet_mgpu::progress::{LogFile, Screen};
use alexnet_mgpu::session;
use alexnet_mgpu::verify::{TOLERANCE, config, differences};

struct Place {
    _dir: tempfile::TempDir,
    root: PathBuf,
    base: Config,
}

fn place() -> Place {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let root = dir.path().to_path_buf();
    let data = root.join("images");
    // Seven steps of seven images an epoch: five is in the middle of the first, ten of the second.
    generate(&data, &GeneratedSpec { seed: 1, size: 32, num_train: 50, num_test: 10 })
        .expect("a writable folder");
    let mut base = config(Arch::AlexnetCifar, &data);
    base.data.resize = 0;
    base.data.pad = 4;
    base.devices.device = DeviceChoice::Cpu;
    base.run.output_dir = root.join("runs");
    Place { _dir: dir, root, base }
}

impl Place {
    /// Trains until step `max_steps` and reads the checkpoint written there.
    fn run(
        &self,
        name: &str,
        mode: Mode,
        devices: usize,
        max_steps: usize,
        from: Resume,
    ) -> Checkpoint {
        let mut config = self.base.clone();
        config.run.name = name.to_owned();
        config.run.resume = from;
        config.devices.mode = mode;
        config.devices.gpus = Gpus::Count(devices);
        config.train.max_steps = max_steps;
        session::train(&config, &Screen::without_bar(), &LogFile::default()).expect("it trains");
        checkpoint::load(&self.run_dir(name)).expect("it saved")
    }

    fn run_dir(&self, name: &str) -> PathBuf {
        let dir = self.root.join("runs").join(name);
        assert!(Path::new(&dir).is_dir(), "{} is missing", dir.display());
        dir
    }
}

fn resumes_bit_for_bit(mode: Mode, devices: usize, precision: Precision) {
    let mut place = place();
    place.base.train.precision = precision;
    let straight = place.run("straight", mode, devices, 10, Resume::Off);
    place.run("broken", mode, devices, 5, Resume::Off);
    let resumed = place.run("broken", mode, devices, 10, Resume::Auto);
    assert_eq!(resumed.state.step, 10);
    assert_eq!(resumed.weights, straight.weights);
    assert_eq!(resumed.optimizer, straight.optimizer);
}

#[test]
fn a_single_run_resumes_bit_for_bit() {
    resumes_bit_for_bit(Mode::Single, 1, Precision::Bf16);
}

#[test]
fn a_data_parallel_run_resumes_bit_for_bit() {
    resumes_bit_for_bit(Mode::DataParallel, 3, Precision::Fp32);
}

#[test]
fn a_split_run_resumes_bit_for_bit() {
    resumes_bit_for_bit(Mode::Split, 2, Precision::Bf16);
    resumes_bit_for_bit(Mode::Split, 4, Precision::Fp32);
}

#[test]
fn a_hybrid_run_resumes_bit_for_bit() {
    resumes_bit_for_bit(Mode::Hybrid, 2, Precision::Bf16);
    resumes_bit_for_bit(Mode::Hybrid, 3, Precision::Fp32);
}

#[test]
fn a_run_moves_between_modes_and_ends_where_one_that_stayed_does() {
    let place = place();
    let straight = place.run("straight", Mode::Single, 1, 10, Resume::Off);
    for (name, from, to) in [
        ("split-single", (Mode::Split, 2), (Mode::Single, 1)),
        ("hybrid-single", (Mode::Hybrid, 3), (Mode::Single, 1)),
        ("single-hybrid", (Mode::Single, 1), (Mode::Hybrid, 2)),
        ("hybrid-data", (Mode::Hybrid, 2), (Mode::DataParallel, 3)),
        ("data-hybrid", (Mode::DataParallel, 2), (Mode::Hybrid, 4)),
        ("hybrid-split", (Mode::Hybrid, 4), (Mode::Split, 4)),
        ("split-hybrid", (Mode::Split, 2), (Mode::Hybrid, 3)),
    ] {
        place.run(name, from.0, from.1, 5, Resume::Off);
        let moved = place.run(name, to.0, to.1, 10, Resume::Auto);
        let pairs = differences(&straight.weights, &moved.weights)
            .into_iter()
            .chain(differences(&straight.optimizer, &moved.optimizer));
        for (tensor, far) in pairs {
            assert!(far < TOLERANCE, "{name}: {tensor} differs by {far:e}");
        }
    }
}

#[test]
fn a_checkpoint_of_another_architecture_is_refused_by_name() {
    let mut place = place();
    place.run("small", Mode::Single, 1, 1, Resume::Off);
    place.base.net.arch = Arch::Alexnet;
    place.base.run.resume = Resume::From(place.run_dir("small"));
    let error = session::train(&place.base, &Screen::without_bar(), &LogFile::default())
        .expect_err("another network");
    let text = format!("{error:#}");
    assert!(text.contains("alexnet-cifar") && text.contains("--init"), "{text}");
}
