//! A run that was stopped and resumed is the run that was not, bit for bit, in every mode and mid-epoch;
//! and a checkpoint goes on in any other mode. What it cannot go on as is refused before anything changes.

use std::path::{Path, PathBuf};

use alexnet_mgpu::checkpoint::{self, Checkpoint};
use alexnet_mgpu::config::{Arch, Config, DeviceChoice, Gpus, Mode, Optimizer, Precision, Resume};
use alexnet_mgpu::data::{GeneratedSpec, generate};
use alexnet_mgpu::exit::{Exit, exit_of};
use alexnet_mgpu::progress::{LogFile, Screen};
use alexnet_mgpu::session::{self, Outcome};
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
    /// The error of a run `name` that is to go on from the run `from`, which is left as it was.
    fn refused(&self, name: &str, from: &str) -> String {
        let recipe = || std::fs::read_to_string(self.run_dir(from).join("config.toml"));
        let before = recipe().expect("a run");
        let mut config = self.base.clone();
        config.run.name = name.to_owned();
        config.run.resume = Resume::From(self.run_dir(from));
        let error = session::train(&config, &Screen::without_bar(), &LogFile::default())
            .expect_err("it is refused");
        assert_eq!(exit_of(&error), Exit::Usage, "{error:#}");
        assert_eq!(recipe().expect("a run"), before, "it was refused too late");
        format!("{error:#}")
    }

    /// Trains the run `name` until step `max_steps`, from the checkpoint or the run at `from`.
    fn goes_on(&self, name: &str, max_steps: usize, from: PathBuf) -> Outcome {
        let mut config = self.base.clone();
        config.run.name = name.to_owned();
        config.run.resume = Resume::From(from);
        config.train.max_steps = max_steps;
        session::train(&config, &Screen::without_bar(), &LogFile::default()).expect("it trains")
    }

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
    let text = place.refused("large", "small");
    assert!(text.contains("alexnet-cifar") && text.contains("--init"), "{text}");
}

#[test]
fn a_checkpoint_of_other_classes_is_refused_by_the_first_that_differs() {
    let place = place();
    let before = place.run("run", Mode::Single, 1, 1, Resume::Off).state;
    let name = before.classes.last().expect("ten classes");
    for split in ["train", "val", "test"].map(|split| place.root.join("images").join(split)) {
        if split.join(name).is_dir() {
            std::fs::rename(split.join(name), split.join("zebra")).expect("writable");
        }
    }
    let text = place.refused("run", "run");
    let parts = ["(10)", name, "\"zebra\"", "class 10", "--data", "--init"];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn a_checkpoint_is_refused_where_its_step_would_be_in_another_epoch() {
    let mut place = place();
    let saved = place.run("run", Mode::Single, 1, 1, Resume::Off).state;
    assert_eq!(saved.steps_per_epoch, Some(7));
    place.base.train.batch_size = 10;
    let text = place.refused("run", "run");
    let parts = ["had 7 steps", "has 5", "batch size", "--init"];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn a_checkpoint_without_what_the_optimizer_keeps_is_refused_by_name() {
    let mut place = place();
    place.run("run", Mode::Single, 1, 1, Resume::Off);
    place.base.train.optimizer = Optimizer::Adam;
    let text = place.refused("run", "run");
    let parts = ["conv1.weight.mean", "train.optimizer adam", "--init"];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn a_run_that_goes_on_in_a_new_folder_has_a_best_checkpoint_there() {
    let place = place();
    place.run("run", Mode::Single, 1, 1, Resume::Off);
    let state = place.run_dir("run").join("checkpoints/last/state.json");
    let text = std::fs::read(&state).expect("saved");
    let mut value: serde_json::Value = serde_json::from_slice(&text).expect("plain");
    // What cannot be beaten.
    value["best_top1"] = 1.0.into();
    std::fs::write(&state, value.to_string()).expect("writable");
    let outcome = place.goes_on("other", 2, place.run_dir("run"));
    assert_eq!(outcome.links, ["last", "best"]);
    assert_eq!(checkpoint::best_step(&place.run_dir("other")), Some(2));
    place.goes_on("run", 2, place.run_dir("run"));
    assert_eq!(checkpoint::best_step(&place.run_dir("run")), Some(1), "it was not beaten");
    let outcome = place.goes_on("nothing-to-do", 2, place.run_dir("run"));
    let now = place.run_dir("run").canonicalize().expect("there");
    assert_eq!((outcome.folder, outcome.links), (now, vec!["last", "best"]));
    assert!(!place.root.join("runs/nothing-to-do").exists(), "what makes no step needs no folder");
}

#[test]
fn a_run_that_goes_on_from_an_earlier_checkpoint_replaces_the_later_ones() {
    let mut place = place();
    place.base.run.checkpoint_steps = 1;
    place.run("run", Mode::Single, 1, 5, Resume::Off);
    let checkpoints = place.run_dir("run").join("checkpoints");
    // Of the last three the first, and two to go.
    place.goes_on("run", 4, checkpoints.join("step-00000003"));
    let entries = std::fs::read_dir(&checkpoints).expect("there");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("readable").file_name()).collect();
    names.sort();
    assert_eq!(names, ["best", "last", "step-00000003", "step-00000004-2"]);
    let resumed = place.run("run", Mode::Single, 1, 6, Resume::Auto);
    assert_eq!(resumed.state.step, 6);
}
