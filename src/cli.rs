//! The command line: names, help and types of the flags.
//!
//! Flags only say what the user wrote; what a missing flag means is the configuration's business.
//! Nothing runs here.

mod bench;
mod draw;
mod gpu_check;
mod pack;
mod stats;
mod verbosity;

use std::path::PathBuf;

use clap::{
    Args, CommandFactory, Parser, Subcommand,
    builder::{NonEmptyStringValueParser, RangedU64ValueParser},
    error::ErrorKind,
};

use crate::{
    config::{
        Arch, BackendChoice, ConfigError, DeviceChoice, Gpus, MAX_THREADS, Mode, Override,
        Precision, Wire,
    },
    data::Views,
    exit::EXIT_CODES_HELP,
};

pub use bench::{BenchCommand, BenchPipelineArgs, BenchStepArgs, Input};
pub use draw::DrawArgs;
pub use gpu_check::{
    GpuCheckCollectivesArgs, GpuCheckCommand, GpuCheckKernelsArgs, GpuCheckSpeedArgs,
};
pub use pack::PackArgs;
pub use stats::StatsArgs;
pub use verbosity::Verbosity;

/// Train AlexNet (Krizhevsky, Sutskever, Hinton 2012) on one or many GPUs.
///
/// Training is the default command. Without a GPU the same commands run on CPU threads in place of
/// GPUs; without --data and --config they train on images made by the program.
#[derive(Debug, Parser)]
#[command(name = "alexnet-mgpu", version, max_term_width = 100)]
#[command(after_long_help = after_help(), args_override_self = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    train: TrainArgs,
    /// How much is logged.
    #[command(flatten)]
    pub verbosity: Verbosity,
}

impl Cli {
    /// The command to run; training if none was named.
    ///
    /// # Errors
    /// If flags of training stand before another command, which would ignore them.
    pub fn into_command(self) -> Result<Command, clap::Error> {
        match self.command {
            None => Ok(Command::Train(Box::new(self.train))),
            Some(command) if self.train == TrainArgs::default() => Ok(command),
            Some(_) => Err(Self::command().error(
                ErrorKind::ArgumentConflict,
                "flags of training stand before the command; put flags after the command they are for",
            )),
        }
    }
}

fn after_help() -> String {
    format!(
        "Examples:
  alexnet-mgpu --gpus 2 --mode split
          the paper's two columns on two devices, on generated images
  alexnet-mgpu --gpus 2 --mode data-parallel --config configs/cifar10.toml --data cifar10
  alexnet-mgpu --gpus all --mode data-parallel --config configs/alexnet.toml --data imagenet -b 256
  alexnet-mgpu --config configs/alexnet.toml --data imagenet --set schedule.kind=plateau
  alexnet-mgpu --config configs/alexnet.toml --dry-run
          print the resolved configuration and the network, and stop
  alexnet-mgpu eval runs/alexnet-split --views 10
  alexnet-mgpu predict --model runs/alexnet-split cat.jpg
  alexnet-mgpu draw --model runs/alexnet-split cat.jpg
  alexnet-mgpu pack imagenet imagenet-256
  alexnet-mgpu stats imagenet

A value comes from the first of these that has it: its flag, the last --set of its key, the file
of --config, the paper (configs/demo.toml where neither --config nor --data is given). What eval,
predict, verify and bench find goes to stdout, everything else to stderr.

{EXIT_CODES_HELP}"
    )
}

/// What the program can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a network (the default command)
    Train(Box<TrainArgs>),
    /// Measure the accuracy of a checkpoint, counting every image once
    Eval(EvalArgs),
    /// Name what is in images
    Predict(PredictArgs),
    /// Draw what a network has learned, and what it sees in images
    Draw(DrawArgs),
    /// Check on this machine, in 64-bit floats, that all modes train the same network
    Verify(VerifyArgs),
    /// Decode and scale an image set once, to train on it at memory speed
    Pack(PackArgs),
    /// Fit the colour statistics of a training split, for normalisation and colour noise
    Stats(StatsArgs),
    /// Measure speed
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Check what needs GPUs
    #[command(subcommand, hide = true)]
    GpuCheck(GpuCheckCommand),
}

/// The flags of training. A flag that is absent leaves its key to the configuration.
#[derive(Args, Clone, Debug, Default, PartialEq)]
#[command(next_help_heading = "Recipe")]
pub struct TrainArgs {
    /// A recipe in TOML; configs/ has several
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set any key of the recipe; may be repeated, and the flag of a key wins over it
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The network [net.arch, default: alexnet]
    #[arg(long, value_enum, value_name = "NET")]
    pub arch: Option<Arch>,
    /// Start from the weights in a safetensors file, or of a run [net.init]
    #[arg(long, value_name = "PATH")]
    pub init: Option<PathBuf>,

    /// N, all, or indices such as 0,1 [devices.gpus, default: 1]
    #[arg(
        long,
        visible_alias = "gpu",
        value_name = "N|all|0,1",
        allow_hyphen_values = true,
        help_heading = "Devices"
    )]
    pub gpus: Option<Gpus>,
    /// How the devices share the work [devices.mode, default: single]
    #[arg(long, value_enum, help_heading = "Devices")]
    pub mode: Option<Mode>,
    /// GPUs, or CPU threads in their place [devices.device, default: auto]
    #[arg(long, value_enum, help_heading = "Devices")]
    pub device: Option<DeviceChoice>,
    /// What carries data between devices [devices.backend, default: auto]
    #[arg(long, value_enum, help_heading = "Devices")]
    pub backend: Option<BackendChoice>,
    /// CPU threads in all; 0 is one per core [devices.threads, default: 0]
    #[arg(long, value_name = "N", help_heading = "Devices")]
    pub threads: Option<usize>,
    /// The widest form in which values travel [devices.wire, default: computed]
    #[arg(long, value_enum, help_heading = "Devices")]
    pub wire: Option<Wire>,

    /// An image folder (train/CLASS/*.jpg and val/ or test/), ILSVRC2012's tars, webdataset shards
    /// (a folder or NAME-{000..146}.tar), CIFAR-10 or -100, what `pack` wrote, or `generated`
    /// [data.path]
    #[arg(long, visible_aliases = ["data-dir", "data-path"], value_name = "PATH", help_heading = "Data")]
    pub data: Option<String>,
    /// Decoding threads; 0 is automatic [data.workers, default: 0]
    #[arg(short = 'j', long, value_name = "N", help_heading = "Data")]
    pub workers: Option<usize>,

    /// Images in a step on all devices together [train.batch_size, default: 128]
    #[arg(short, long, value_name = "N", help_heading = "Training")]
    pub batch_size: Option<usize>,
    /// Passes over the training images [train.epochs, default: 90]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub epochs: Option<usize>,
    /// Initial learning rate [train.lr, default: 0.01]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, help_heading = "Training")]
    pub lr: Option<f64>,
    /// What the network computes in [train.precision, default: fp32]
    #[arg(long, value_enum, help_heading = "Training")]
    pub precision: Option<Precision>,
    /// Seed of every random draw [train.seed, default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Training")]
    pub seed: Option<u64>,

    /// Continue from a checkpoint; `auto`: the latest of this run, if any [run.resume]
    #[arg(long, value_name = "auto|PATH", help_heading = "Run")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub resume: Option<String>,
    /// The folder of all runs [run.output_dir, default: runs]
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    pub output_dir: Option<PathBuf>,
    /// The run's folder in it; from network and mode if empty [run.name]
    #[arg(long, help_heading = "Run")]
    pub name: Option<String>,
    /// Print the resolved recipe and the network, and stop
    #[arg(long, help_heading = "Run")]
    pub dry_run: bool,
}

impl TrainArgs {
    /// Whether nothing names a recipe or data, so that the built-in demonstration is trained.
    #[must_use]
    pub fn uses_demo(&self) -> bool {
        self.config.is_none()
            && self.data.is_none()
            && self.recipe_checkpoint().is_none()
            && self.set_text("data.path").is_none()
    }

    /// What the last `--set` of `key` sets it to.
    fn set_text(&self, key: &str) -> Option<String> {
        let mut sets = self.set.iter().rev().filter_map(|text| Override::of_set(text).ok());
        sets.find_map(|set| set.text_of(key).map(str::to_owned))
    }

    /// The checkpoint whose saved recipe is the one to continue with, because `--resume PATH`, or a `--set` of its
    /// key, names it and no `--config` says otherwise.
    #[must_use]
    pub fn recipe_checkpoint(&self) -> Option<PathBuf> {
        let path = self.resume.clone().or_else(|| self.set_text("run.resume"))?;
        if matches!(path.as_str(), "" | "auto") {
            return None;
        }
        self.config.is_none().then_some(path.into())
    }

    /// Every `--set`, then every flag given: the order in which they apply.
    ///
    /// # Errors
    /// [`ConfigError`] for a malformed `--set` or a value that TOML cannot hold.
    pub fn overrides(&self) -> Result<Vec<Override>, ConfigError> {
        let flags = [
            Override::of_flag("--arch", "net.arch", self.arch.as_ref())?,
            Override::of_flag("--init", "net.init", self.init.as_ref())?,
            Override::of_flag("--gpus", "devices.gpus", self.gpus.as_ref())?,
            Override::of_flag("--mode", "devices.mode", self.mode.as_ref())?,
            Override::of_flag("--device", "devices.device", self.device.as_ref())?,
            Override::of_flag("--backend", "devices.backend", self.backend.as_ref())?,
            Override::of_flag("--threads", "devices.threads", self.threads.as_ref())?,
            Override::of_flag("--wire", "devices.wire", self.wire.as_ref())?,
            Override::of_flag("--data", "data.path", self.data.as_ref())?,
            Override::of_flag("--workers", "data.workers", self.workers.as_ref())?,
            Override::of_flag("--batch-size", "train.batch_size", self.batch_size.as_ref())?,
            Override::of_flag("--epochs", "train.epochs", self.epochs.as_ref())?,
            Override::of_flag("--lr", "train.lr", self.lr.as_ref())?,
            Override::of_flag("--precision", "train.precision", self.precision.as_ref())?,
            Override::of_flag("--seed", "train.seed", self.seed.as_ref())?,
            Override::of_flag("--resume", "run.resume", self.resume.as_ref())?,
            Override::of_flag("--output-dir", "run.output_dir", self.output_dir.as_ref())?,
            Override::of_flag("--name", "run.name", self.name.as_ref())?,
        ];
        let sets = self.set.iter().map(|text| Override::of_set(text));
        let mut overrides = sets.collect::<Result<Vec<_>, _>>()?;
        overrides.extend(flags.into_iter().flatten());
        Ok(overrides)
    }
}

/// A fraction below one.
fn fraction(text: &str) -> Result<f64, String> {
    let fraction = text.parse::<f64>().map_err(|error| error.to_string())?;
    match (0.0..1.0).contains(&fraction) {
        true => Ok(fraction),
        false => Err("is not from 0 to below 1".into()),
    }
}

/// A time that can be waited for.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    match seconds > 0.0 && seconds <= 86_400.0 {
        true => Ok(seconds),
        false => Err("is not above 0 and at most a day, 86400".into()),
    }
}

/// A number of threads.
fn threads() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(..=MAX_THREADS as u64)
}

/// A count of at least one.
fn positive() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// The flags of `eval`.
#[derive(Args, Clone, Debug)]
pub struct EvalArgs {
    /// A checkpoint, or the folder of a run for its latest one
    pub path: PathBuf,
    /// Crops averaged per image: the centre, or the paper's ten
    #[arg(long, value_enum, default_value_t)]
    pub views: Views,
    /// The data set; that of the training run if absent
    #[arg(long, visible_aliases = ["data-dir", "data-path"], value_name = "PATH")]
    pub data: Option<String>,
    /// N, all, or indices such as 0,1
    #[arg(long, visible_alias = "gpu", value_name = "N|all|0,1", default_value = "1")]
    pub gpus: Gpus,
    /// GPUs, or CPU threads in their place
    #[arg(long, value_enum, default_value = "auto")]
    pub device: DeviceChoice,
    /// Images at a time on all devices together; that of the training run if absent
    #[arg(short, long, value_name = "N", value_parser = positive())]
    pub batch_size: Option<usize>,
    /// What the network computes in; that of the training run if absent
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// The flags of `predict`.
#[derive(Args, Clone, Debug)]
pub struct PredictArgs {
    /// A checkpoint, or the folder of a run for its latest one
    #[arg(long, value_name = "PATH")]
    pub model: PathBuf,
    /// JPEG or PNG files
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// How many classes to print for each image
    #[arg(long, value_name = "N", default_value = "5", value_parser = positive())]
    pub top: usize,
    /// Crops averaged per image: the centre, or the paper's ten
    #[arg(long, value_enum, default_value_t)]
    pub views: Views,
    /// A GPU, or CPU threads in its place
    #[arg(long, value_enum, default_value = "auto")]
    pub device: DeviceChoice,
    /// Print one line of JSON for each image
    #[arg(long)]
    pub json: bool,
}

/// The flags of `verify`.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// The network
    #[arg(long, value_enum, value_name = "NET", default_value = "alexnet-cifar")]
    pub arch: Arch,
    /// Devices in the modes that use several: N, all, or indices such as 0,1 [default: 2, or a single GPU
    /// twice]
    #[arg(long, visible_alias = "gpu", value_name = "N|all|0,1")]
    pub gpus: Option<Gpus>,
    /// GPUs, or CPU threads in their place
    #[arg(long, value_enum, default_value = "auto")]
    pub device: DeviceChoice,
    /// What carries data between devices
    #[arg(long, value_enum, default_value = "auto")]
    pub backend: BackendChoice,
    /// Training steps before the weights are compared
    #[arg(long, value_name = "N", default_value = "10", value_parser = positive())]
    pub steps: usize,
}

#[cfg(test)]
mod tests;
