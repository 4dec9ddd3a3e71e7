//! What tests of the whole program share: a place to run it in, how it ends and what it says, and what a loader is
//! told. Tests add to [`Desk`] what only they do there.
#![allow(dead_code, reason = "no test uses all of it")]

use std::path::PathBuf;
use std::process::{Command, Output};

use alexnet_mgpu::cancel::Cancel;
use alexnet_mgpu::data::{self, Delivery, Form, GeneratedSpec, generate};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_alexnet-mgpu");

/// A folder with generated images and room for results.
pub(crate) struct Desk {
    pub(crate) dir: tempfile::TempDir,
}

impl Desk {
    /// With square images of `size` pixels in the folder `images`.
    pub(crate) fn with_images(size: u32, num_train: usize, num_test: usize) -> Self {
        let desk = Self { dir: tempfile::tempdir().expect("a temporary folder") };
        let spec = GeneratedSpec { seed: 1, size, num_train, num_test };
        generate(&desk.path("images"), &spec).expect("a writable folder");
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.current_dir(self.dir.path()).args(args);
        command
    }

    /// `command` where files end at `num_bytes`, as on a disk that is full then.
    pub(crate) fn on_full_disk(&self, command: &Command, num_bytes: usize) -> Command {
        let blocks = num_bytes / 512;
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut full = Command::new("sh");
        full.current_dir(self.dir.path()).args(["-c", &script, PROGRAM]).args(command.get_args());
        full
    }

    /// The training images, in the order of the set.
    pub(crate) fn images(&self) -> Vec<PathBuf> {
        let set = data::open(&self.path("images"), data::Split::Train).expect("made above");
        (0..set.len()).map(|index| PathBuf::from(set.name(index))).collect()
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
pub(crate) fn succeeds(command: &mut Command) -> Output {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{:?}\n{}", output.status, stderr(&output));
    output
}

/// What it says, if it ends with `code`.
#[track_caller]
pub(crate) fn ends(command: &mut Command, code: i32) -> String {
    let output = command.output().expect("the program starts");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// What it says, if it ends with `code` and says all of `parts`.
#[track_caller]
pub(crate) fn fails(command: &mut Command, code: i32, parts: &[&str]) -> String {
    let text = ends(command, code);
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    text
}

/// All of a batch to one consumer, made by two threads.
pub(crate) fn delivery(batch: usize, output: data::Output) -> Delivery {
    Delivery {
        shares: std::iter::once(0..batch).collect(),
        consumers_per_share: 1,
        workers: 2,
        depth: 2,
        form: Form::Finished(output),
        pinning: None,
        cancel: Cancel::default(),
    }
}
