//! A place to run the program in.

use std::path::PathBuf;
use std::process::Command;

use alexnet_mgpu::checkpoint;

pub(crate) use super::common::{Desk, PROGRAM, fails, stderr, succeeds};

impl Desk {
    pub(crate) fn new() -> Self {
        Self::with_images(32, 40, 10)
    }

    /// A training run of the small network over the images, two steps unless `args` say otherwise.
    pub(crate) fn train(&self, args: &[&str]) -> Command {
        let mut command = self.command(&["--arch", "alexnet-cifar", "--data", "images"]);
        command
            .args(["--set", "data.resize=0", "--set", "data.std=[64,64,64]"])
            .args(["--batch-size", "8", "--device", "cpu"])
            .args(["--set", "train.max_steps=2", "--lr", "0.001", "--name", "run"])
            .args(args);
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
        self.images().swap_remove(index)
    }
}
