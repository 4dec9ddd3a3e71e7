//! The flags of `bench`.

use std::path::PathBuf;

use clap::{Args, Command, FromArgMatches, Subcommand};

use super::{positive, seconds, threads};
use crate::{
    config::{
        Arch, BackendChoice, ConfigError, DeviceChoice, Gpus, Mode, Override, Precision, Wire,
    },
    data::{Augment, Output},
};

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// The training step on images already in memory
    Step(BenchStepArgs),
    /// The input pipeline, without a network
    Pipeline(BenchPipelineArgs),
}

/// The flags of `bench step`.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct BenchStepArgs {
    /// The network
    #[arg(long, value_enum, value_name = "NET", default_value = "alexnet")]
    pub arch: Arch,
    /// Images in a step on all devices together
    #[arg(short, long, visible_alias = "batch-size", value_name = "N", default_value = "128")]
    #[arg(value_parser = positive())]
    pub batch: usize,
    /// What the network computes in
    #[arg(long, value_enum, default_value = "fp32")]
    pub precision: Precision,
    /// CPU threads in all; 0 is one per core
    #[arg(long, value_name = "N", default_value = "0", value_parser = threads())]
    pub threads: usize,
    /// N, all, or indices such as 0,1
    #[arg(long, visible_alias = "gpu", value_name = "N|all|0,1", default_value = "1")]
    pub gpus: Gpus,
    /// How the devices share the work
    #[arg(long, value_enum, default_value = "single")]
    pub mode: Mode,
    /// GPUs, or CPU threads in their place
    #[arg(long, value_enum, default_value = "auto")]
    pub device: DeviceChoice,
    /// The widest form in which values travel
    #[arg(long, value_enum, default_value = "computed")]
    pub wire: Wire,
    /// What carries data between devices
    #[arg(long, value_enum, default_value = "auto")]
    pub backend: BackendChoice,
    /// Steps that are timed
    #[arg(long, value_name = "N", default_value = "20", value_parser = positive())]
    pub steps: usize,
    /// Steps before them that are not
    #[arg(long, value_name = "N", default_value = "5")]
    pub warmup: usize,
}

impl BenchStepArgs {
    /// The flags as a configuration knows them.
    ///
    /// # Errors
    /// [`ConfigError`] for a value that TOML cannot hold.
    pub fn overrides(&self) -> Result<Vec<Override>, ConfigError> {
        let flags = [
            Override::of_flag("--arch", "net.arch", Some(&self.arch))?,
            Override::of_flag("--gpus", "devices.gpus", Some(&self.gpus))?,
            Override::of_flag("--mode", "devices.mode", Some(&self.mode))?,
            Override::of_flag("--device", "devices.device", Some(&self.device))?,
            Override::of_flag("--backend", "devices.backend", Some(&self.backend))?,
            Override::of_flag("--threads", "devices.threads", Some(&self.threads))?,
            Override::of_flag("--wire", "devices.wire", Some(&self.wire))?,
            Override::of_flag("--batch", "train.batch_size", Some(&self.batch))?,
            Override::of_flag("--precision", "train.precision", Some(&self.precision))?,
        ];
        Ok(flags.into_iter().flatten().collect())
    }

    /// The flags in a line of text.
    ///
    /// # Errors
    /// As on a command line.
    pub fn of_line(line: &str) -> anyhow::Result<Self> {
        let command = Self::augment_args(Command::new("bench step").no_binary_name(true));
        let matches = command.try_get_matches_from(line.split_whitespace())?;
        Ok(Self::from_arg_matches(&matches)?)
    }

    /// Whether the flags differ from `other` in nothing but how many steps there are.
    #[must_use]
    pub fn is_about_the_step_of(&self, other: &Self) -> bool {
        Self { steps: other.steps, warmup: other.warmup, ..self.clone() } == *other
    }
}

/// What `bench pipeline` reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Input {
    /// The images as they are stored.
    #[default]
    #[value(name = "jpeg")]
    AsStored,
    /// Packed as JPEG files of 256 pixels.
    #[value(name = "jpeg256")]
    PackedJpeg,
    /// Packed as pixels, 256 x 256.
    #[value(name = "u8")]
    PackedPixels,
}

/// The flags of `bench pipeline`.
#[derive(Args, Clone, Debug)]
pub struct BenchPipelineArgs {
    /// The image set, as for training, except `generated`
    #[arg(short, long, value_name = "PATH")]
    pub data: PathBuf,
    /// What is read: the images as they are stored, or packed first as 256-pixel JPEG files or pixels,
    /// unless they are already
    #[arg(long, value_enum, default_value_t)]
    pub input: Input,
    /// What batches are made of
    #[arg(long, visible_alias = "output", value_enum, default_value = "f32")]
    pub out: Output,
    /// What is done to images at random
    #[arg(long, value_enum, default_value = "paper")]
    pub augment: Augment,
    /// The shorter side after resizing; 0: as stored
    #[arg(long, value_name = "PIXELS", default_value = "256")]
    pub resize: u32,
    /// The side of the crop
    #[arg(long, value_name = "PIXELS", default_value = "227")]
    pub crop: u32,
    /// Images in a batch
    #[arg(short, long, visible_alias = "batch-size", value_name = "N", default_value = "128")]
    #[arg(value_parser = positive())]
    pub batch: usize,
    /// Threads that decode; 0 is one per core
    #[arg(long, visible_alias = "workers", value_name = "N", default_value = "0", value_parser = threads())]
    pub threads: usize,
    /// How long to measure
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub seconds: f64,
}
