//! A place to run the program in.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use alexnet_mgpu::checkpoint;
use alexnet_mgpu::data::{GeneratedSpec, generate};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_alexnet-mgpu");

/// A folder with images and room for runs.
pub(crate) struct Desk {
    pub(crate) dir: tempfile::TempDir,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let desk = Self { dir };
        let spec = GeneratedSpec { seed: 1, size: 32, num_train: 40, num_test: 10 };
        generate(&desk.path("images"), &spec).expect("a writable folder");
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A training run of the small network over the images, two steps unless `args` say otherwise.
    pub(crate) fn train(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .current_dir(self.dir.path())
            .args(["--arch", "alexnet-cifar", "--data", "images", "--set", "data.resize=0"])
            .args(["--set", "data.std=[64,64,64]", "--batch-size", "8", "--device", "cpu"])
            .args(["--set", "train.max_steps=2", "--lr", "0.001", "--name", "run"])
            .args(args);
        command
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.current_dir(self.dir.path()).args(args);
        command
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.path("runs/run")
    }

    pub(crate) fn last_step(&self) -> u64 {
        checkpoint::load(&self.run_dir()).expect("a whole checkpoint").state.step
    }

    /// One training image's path.
    pub(crate) fn image(&self, index: usize) -> PathBuf {
        let mut files = Vec::new();
        for class in fs::read_dir(self.path("images/train")).expect("made above") {
            let class = class.expect("readable").path();
            let images = fs::read_dir(class).expect("a class folder");
            files.extend(images.map(|image| image.expect("readable").path()));
        }
        files.sort();
        files[index].clone()
    }
}

pub(crate) fn run(command: &mut Command) -> Output {
    command.output().expect("the program starts")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
pub(crate) fn succeeds(command: &mut Command) -> Output {
    let output = run(command);
    assert!(output.status.success(), "{:?}\n{}", output.status, stderr(&output));
    output
}

/// The last line, which says everything about a failure with exit code `code`.
#[track_caller]
pub(crate) fn fails(command: &mut Command, code: i32, parts: &[&str]) -> String {
    let output = run(command);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
    text
}
