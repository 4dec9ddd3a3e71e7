//! The ranges of the values, and the values that exclude each other.
//!
//! Checked once, when a configuration is complete; the rest of the program relies on it. What depends
//! on the machine or the data set is checked where those are known.

use std::fmt::Display;

use super::{
    choices::{Arch, Finish, Input, Mode, Precision, ScheduleKind, Wire},
    colours::{Mean, StatsFrom},
    schema::{
        Config, DataConfig, DevicesConfig, NetConfig, RunConfig, ScheduleConfig, TrainConfig,
    },
};
use crate::data::{Augment, GeneratedSpec, Geometry};

/// More threads than this is a slip of the finger.
pub(crate) const MAX_THREADS: usize = 4096;
/// More epochs than this is one, too; and steps can be counted.
const MAX_EPOCHS: usize = 1_000_000_000;
/// More batches than this in flight would only fill memory.
const MAX_DEPTH: usize = 256;

/// A value that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The dotted key.
    pub(super) key: &'static str,
    /// Its value.
    pub(super) value: String,
    /// The rule and what to do.
    pub(super) why: String,
}

type Check = Result<(), Problem>;

fn require(holds: bool, key: &'static str, value: impl Display, why: &str) -> Check {
    if holds { Ok(()) } else { Err(Problem { key, value: value.to_string(), why: why.into() }) }
}

fn at_least_one(key: &'static str, value: usize) -> Check {
    require(value >= 1, key, value, "must be 1 or more")
}

fn at_most(key: &'static str, value: usize, limit: usize) -> Check {
    require(value <= limit, key, value, &format!("must be {limit} or less"))
}

/// 0 <= value < 1.
fn below_one(key: &'static str, value: f64) -> Check {
    require((0.0..1.0).contains(&value), key, value, "must be 0 or more and less than 1")
}

/// A finite number, 0 or more.
fn not_negative(key: &'static str, value: f64) -> Check {
    require(value.is_finite() && value >= 0.0, key, value, "must be a finite number, 0 or more")
}

/// TOML's integers have 63 bits, and a run's configuration is saved as TOML.
fn seed(key: &'static str, value: u64) -> Check {
    require(i64::try_from(value).is_ok(), key, value, "must be less than 2^63")
}

/// Checks every value.
pub(super) fn check(config: &Config) -> Check {
    run(&config.run)?;
    devices(&config.devices)?;
    wire(config)?;
    net(&config.net)?;
    data(&config.data)?;
    train(&config.train)?;
    schedule(&config.schedule, &config.train)
}

fn run(run: &RunConfig) -> Check {
    let plain = !run.name.contains(['/', '\\', '\0']) && run.name != "." && run.name != "..";
    let folder =
        "must be a plain folder name; the folder around it is run.output_dir (--output-dir)";
    require(plain, "run.name", &run.name, folder)?;
    let output_dir = run.output_dir.display();
    require(
        !run.output_dir.as_os_str().is_empty(),
        "run.output_dir",
        output_dir,
        "must name a folder; write \".\" for the current one",
    )?;
    at_most("run.checkpoint_epochs", run.checkpoint_epochs, MAX_EPOCHS)?;
    at_least_one("run.keep_last", run.keep_last)?;
    at_least_one("run.log_steps", run.log_steps)
}

fn devices(devices: &DevicesConfig) -> Check {
    let num = devices.gpus.num_devices();
    require(
        devices.mode != Mode::Single || num.is_none_or(|num| num == 1),
        "devices.gpus",
        &devices.gpus,
        "mode `single` uses one device; add --mode data-parallel or --mode split (or hybrid), or ask for one",
    )?;
    require(
        devices.mode != Mode::Split || num.is_none_or(|num| num >= 2),
        "devices.gpus",
        &devices.gpus,
        "mode `split` puts the two columns of the net on two devices; add --gpus 2",
    )?;
    at_most("devices.threads", devices.threads, MAX_THREADS)?;
    at_least_one("devices.collective_timeout_s", devices.collective_timeout_s)?;
    at_least_one("devices.bucket_bytes", devices.bucket_bytes)
}

/// What is not in a value when it leaves cannot be added on the way.
fn wire(config: &Config) -> Check {
    let wider = config.devices.wire == Wire::Fp32 && config.train.precision == Precision::Bf16;
    require(
        !wider,
        "devices.wire",
        config.devices.wire,
        "values are computed in bf16 and do not travel wider; leave it at `computed`, or compute in \
         fp32 (--precision fp32)",
    )
}

fn net(net: &NetConfig) -> Check {
    let few = "must be 2 or more, or 0 to take the number from the data";
    require(net.classes != 1, "net.classes", net.classes, few)?;
    require(
        net.input == Input::Auto || net.arch != Arch::AlexnetCifar,
        "net.input",
        net.input,
        "alexnet-cifar takes 32-pixel images; leave it at auto",
    )?;
    below_one("net.dropout", net.dropout)
}

fn data(data: &DataConfig) -> Check {
    let max_side = Geometry::MAX_SIDE as usize;
    at_most("data.resize", data.resize, max_side)?;
    at_most("data.crop", data.crop, max_side)?;
    at_most("data.pad", data.pad, max_side)?;
    require(
        data.resize == 0 || data.crop <= data.resize,
        "data.crop",
        data.crop,
        "must fit in a test image, which is not padded: at most data.resize; lower it or raise data.resize",
    )?;
    require(
        data.augment != Augment::Torchvision || data.pad == 0,
        "data.pad",
        data.pad,
        "augment = \"torchvision\" takes parts of the image as it is; set it to 0",
    )?;
    colours(data)?;
    at_most("data.workers", data.workers, MAX_THREADS)?;
    at_least_one("data.depth", data.depth)?;
    at_most("data.depth", data.depth, MAX_DEPTH)?;
    below_one("data.max_bad_fraction", data.max_bad_fraction)?;
    let made = &data.generated;
    let (least, most) = (*GeneratedSpec::SIZES.start(), *GeneratedSpec::SIZES.end());
    require(
        u32::try_from(made.size).is_ok_and(|size| GeneratedSpec::SIZES.contains(&size)),
        "data.generated.size",
        made.size,
        &format!("must be {least} to {most} pixels"),
    )?;
    let classes = format!("must be {0} or more: there are {0} classes", GeneratedSpec::NUM_CLASSES);
    for (key, num) in [("data.generated.train", made.train), ("data.generated.test", made.test)] {
        require(num >= GeneratedSpec::NUM_CLASSES, key, num, &classes)?;
    }
    seed("data.generated.seed", made.seed)
}

fn colours(data: &DataConfig) -> Check {
    if let Mean::Colour(mean) = &data.mean {
        let in_range = mean.iter().all(|mean| (0.0..=255.0).contains(mean));
        require(in_range, "data.mean", data.mean, "each must be from 0 to 255")?;
    }
    require(
        data.mean != Mean::IMAGE || data.stats != StatsFrom::Imagenet,
        "data.mean",
        data.mean,
        "a mean image is fitted to your images: run `alexnet-mgpu stats DATA` and set data.stats to \
         \"fitted\"",
    )?;
    require(
        data.mean != Mean::IMAGE || data.finish != Finish::Device,
        "data.finish",
        data.finish,
        "a mean image is subtracted by the loader; set it to \"auto\"",
    )?;
    require(
        data.mean != Mean::IMAGE || data.augment != Augment::Torchvision,
        "data.mean",
        data.mean,
        "it does not lie over the random parts of augment = \"torchvision\"; set it to \"auto\"",
    )?;
    if let Some(std) = data.std.numbers() {
        let positive = std.iter().all(|std| std.is_finite() && *std > 0.0);
        require(positive, "data.std", data.std, "each must be a finite number above 0")?;
    }
    let unit = |[deviation, r, g, b]: &[f64; 4]| {
        deviation.is_finite() && *deviation >= 0.0 && (r * r + g * g + b * b - 1.0).abs() < 0.01
    };
    require(
        data.components.numbers().is_none_or(|components| components.iter().all(unit)),
        "data.components",
        data.components,
        "each must be a deviation of 0 or more and a direction of length 1",
    )
}

fn train(train: &TrainConfig) -> Check {
    at_least_one("train.batch_size", train.batch_size)?;
    at_least_one("train.epochs", train.epochs)?;
    at_most("train.epochs", train.epochs, MAX_EPOCHS)?;
    at_most("train.eval_epochs", train.eval_epochs, MAX_EPOCHS)?;
    let positive = train.lr.is_finite() && train.lr > 0.0;
    require(
        positive,
        "train.lr",
        train.lr,
        "must be a finite number above 0; the paper's is 0.01",
    )?;
    below_one("train.momentum", train.momentum)?;
    not_negative("train.weight_decay", train.weight_decay)?;
    not_negative("train.bias_lr", train.bias_lr)?;
    seed("train.seed", train.seed)
}

fn schedule(schedule: &ScheduleConfig, train: &TrainConfig) -> Check {
    let rising = schedule.at.first().is_none_or(|first| *first >= 1)
        && schedule.at.windows(2).all(|pair| pair[0] < pair[1]);
    let at = format!("{:?}", schedule.at);
    require(rising, "schedule.at", at, "must be epochs from 1 in rising order")?;
    let factor = schedule.factor;
    require(factor > 0.0 && factor < 1.0, "schedule.factor", factor, "must be between 0 and 1")?;
    at_least_one("schedule.patience", schedule.patience)?;
    below_one("schedule.min_improvement", schedule.min_improvement)?;
    require(
        schedule.kind != ScheduleKind::Plateau || train.eval_epochs >= 1,
        "train.eval_epochs",
        train.eval_epochs,
        "a plateau shows in evaluations; set it to 1, or choose another schedule.kind",
    )?;
    not_negative("schedule.warmup_epochs", schedule.warmup_epochs)?;
    require(
        schedule.warmup_epochs == 0.0 || schedule.warmup_epochs < train.epochs as f64,
        "schedule.warmup_epochs",
        schedule.warmup_epochs,
        "must be shorter than train.epochs (--epochs); lower it, 0 is no warm-up",
    )?;
    let last = schedule.final_fraction;
    require((0.0..=1.0).contains(&last), "schedule.final_fraction", last, "must be from 0 to 1")
}
