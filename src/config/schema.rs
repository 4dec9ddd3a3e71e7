//! Every key of a configuration, its type and its default.
//!
//! The defaults are the recipe of Krizhevsky, Sutskever and Hinton 2012 ("the paper"). Where its
//! prose leaves a choice open, the released 2012 training files decide, as they made its results.
//! Ranges are checked elsewhere; nothing here reads a file.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    choices::{
        Algorithms, Arch, BackendChoice, DeviceChoice, Finish, Input, Mode, Optimizer, Precision,
        Resume, ScheduleKind, Wire,
    },
    colours::{Given, Mean, StatsFrom},
    gpus::Gpus,
};
use crate::data::{Augment, LightingScale, Order};

/// A complete training recipe; one TOML table per field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where results go and how often.
    pub run: RunConfig,
    /// What computes.
    pub devices: DevicesConfig,
    /// The network.
    pub net: NetConfig,
    /// The images and how they are prepared.
    pub data: DataConfig,
    /// The optimizer and its length.
    pub train: TrainConfig,
    /// The learning rate over time.
    pub schedule: ScheduleConfig,
}

/// `[run]`: where results go and how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// The name of the run's folder; empty: made of the architecture and the mode.
    pub name: String,
    /// The folder that holds the runs' folders.
    pub output_dir: PathBuf,
    /// Save after every N epochs; 0: after the last one only.
    pub checkpoint_epochs: usize,
    /// Also save after every N steps; 0: off.
    pub checkpoint_steps: usize,
    /// How many of the latest checkpoints stay on disk.
    pub keep_last: usize,
    /// Log the loss after every N steps.
    pub log_steps: usize,
    /// Empty, `auto` (the latest checkpoint of this run, if there is one) or a checkpoint's path.
    pub resume: Resume,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            output_dir: "runs".into(),
            checkpoint_epochs: 1,
            checkpoint_steps: 0,
            keep_last: 3,
            log_steps: 20,
            resume: Resume::Off,
        }
    }
}

/// `[devices]`: what computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DevicesConfig {
    /// A number, `all`, or a list of indices such as `0,1`.
    pub gpus: Gpus,
    /// How the work is divided among the devices.
    pub mode: Mode,
    /// GPUs, CPU threads in their place, or whichever is there.
    pub device: DeviceChoice,
    /// What carries data between devices: NCCL, this process, or whichever is there.
    pub backend: BackendChoice,
    /// Seconds that one exchange between devices may take before the run is given up.
    pub collective_timeout_s: usize,
    /// The algorithms of convolutions on GPUs: `fastest`; `deterministic`, with which a run that is
    /// repeated or resumed has the same bits; `exact`, which also has every bit of fp32, and is slow.
    pub algorithms: Algorithms,
    /// CPU threads in all; 0: as many as the machine has cores.
    pub threads: usize,
    /// Gradients are reduced in buckets of about this size; 32 MiB.
    pub bucket_bytes: usize,
    /// The widest form in which gradients and activations travel between devices.
    pub wire: Wire,
}

impl Default for DevicesConfig {
    fn default() -> Self {
        Self {
            gpus: Gpus::default(),
            mode: Mode::Single,
            device: DeviceChoice::Auto,
            backend: BackendChoice::Auto,
            // Longer than a slow disk keeps one rank waiting for images or for a checkpoint.
            collective_timeout_s: 300,
            algorithms: Algorithms::Fastest,
            threads: 0,
            bucket_bytes: 32 << 20,
            wire: Wire::Computed,
        }
    }
}

/// `[net]`: the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetConfig {
    /// Which net.
    pub arch: Arch,
    /// Pixels and zeros that the first layer is fed: `auto` (as the net is defined), `227`,
    /// `224-padded` (two zeros on each side) or `224-filled` (three on the right and at the bottom).
    pub input: Input,
    /// How many classes; 0: as many as the data has.
    pub classes: usize,
    /// The probability that a hidden unit of fc6 and fc7 is dropped in training (§4.2).
    pub dropout: f64,
    /// A safetensors file to start from; empty: random weights.
    #[serde(with = "empty_is_none")]
    pub init: Option<PathBuf>,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self { arch: Arch::Alexnet, input: Input::Auto, classes: 0, dropout: 0.5, init: None }
    }
}

/// `[data]`: the images and how they are prepared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// The data set; `generated` needs no files.
    pub path: String,
    /// The shorter side in pixels after resizing; 0: as stored.
    pub resize: usize,
    /// The side of the crop in pixels; 0: the input side of the architecture.
    pub crop: usize,
    /// Pixels added on each side before a training crop.
    pub pad: usize,
    /// What is done to training images at random.
    pub augment: Augment,
    /// The order of training images.
    pub order: Order,
    /// Whose colours `auto` means below: `imagenet`, `fitted` (what `alexnet-mgpu stats` left with
    /// the data), or the path of such a file.
    pub stats: StatsFrom,
    /// Subtracted from pixels of 0 to 255: `auto` (the mean colour), `image` (the mean image, as in
    /// §2; not with ImageNet's constants), or red, green and blue.
    pub mean: Mean,
    /// What red, green and blue are then divided by: `auto` (1, as in the paper; with torchvision's
    /// recipe the deviation of each), or numbers on the same scale.
    pub std: Given<[f64; 3]>,
    /// The principal components of the colours, along which §4.1 shifts them: `auto`, or for each of
    /// three its standard deviation and its direction, `[deviation, red, green, blue]`.
    pub components: Given<[[f64; 4]; 3]>,
    /// The size of the shift, as eigenvalues depend on the scale of a pixel.
    pub lighting_scale: LightingScale,
    /// Where the last pass over pixels is made: `auto`, `loader` or `device`. The result is the same.
    pub finish: Finish,
    /// Threads that decode; 0: chosen from the number of cores.
    pub workers: usize,
    /// Batches prepared ahead of the training step.
    pub depth: usize,
    /// The share of unreadable images above which the run fails.
    pub max_bad_fraction: f64,
    /// The images of the `generated` data set.
    pub generated: GeneratedConfig,
}

impl DataConfig {
    /// The side of the crops for an architecture whose input side is `input`, in pixels.
    #[must_use]
    pub fn crop_side(&self, input: usize) -> usize {
        if self.crop == 0 { input } else { self.crop }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: String::new(),
            resize: 256,
            crop: 0,
            pad: 0,
            augment: Augment::Paper,
            order: Order::Shuffled,
            stats: StatsFrom::Imagenet,
            // The paper subtracts a mean image (§2); over random crops a colour does the same.
            mean: Mean::default(),
            std: Given::default(),
            components: Given::default(),
            // The 2012 scale of the noise; `eig01` shifts half as far (fb.resnet.torch's constants).
            lighting_scale: LightingScale::Std,
            finish: Finish::Auto,
            workers: 0,
            depth: 4,
            max_bad_fraction: 0.01,
            generated: GeneratedConfig::default(),
        }
    }
}

/// `[data.generated]`: images made by the program itself, to try it without a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GeneratedConfig {
    /// The side of an image in pixels.
    pub size: usize,
    /// How many training images.
    pub train: usize,
    /// How many test images.
    pub test: usize,
    /// Another seed makes other images.
    pub seed: u64,
}

impl Default for GeneratedConfig {
    fn default() -> Self {
        Self { size: 64, train: 4000, test: 1000, seed: 1 }
    }
}

/// `[train]`: the optimizer and its length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Images in a step on all devices together (§5: 128).
    pub batch_size: usize,
    /// Passes over the training images (§5: roughly 90).
    pub epochs: usize,
    /// Stop after this many steps even so; 0: off.
    pub max_steps: usize,
    /// The initial learning rate (§5: 0.01).
    pub lr: f64,
    /// The update rule.
    pub optimizer: Optimizer,
    /// §5: 0.9.
    pub momentum: f64,
    /// §5: 0.0005; weights decay, biases do not.
    pub weight_decay: f64,
    /// The learning rate of biases, as a multiple of `lr`.
    pub bias_lr: f64,
    /// What the network computes in; weights and momentum stay in fp32 or better.
    pub precision: Precision,
    /// The seed of every random draw.
    pub seed: u64,
    /// Evaluate after every N epochs; 0: after the last one only.
    pub eval_epochs: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            batch_size: 128,
            epochs: 90,
            max_steps: 0,
            lr: 0.01,
            optimizer: Optimizer::Momentum,
            momentum: 0.9,
            weight_decay: 0.0005,
            // §5 speaks of one rate for all layers; the 2012 files start weights at 0.01 and biases
            // at 0.02, and most reproductions keep that factor.
            bias_lr: 2.0,
            precision: Precision::Fp32,
            seed: 1,
            eval_epochs: 1,
        }
    }
}

/// `[schedule]`: the learning rate over time. A key that its kind does not use is ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// The shape of the curve.
    pub kind: ScheduleKind,
    /// `steps`: the numbers of finished epochs at which the rate is multiplied by `factor`.
    pub at: Vec<usize>,
    /// `steps` and `plateau`: what the rate is multiplied by.
    pub factor: f64,
    /// `plateau`: evaluations without improvement before the rate falls.
    pub patience: usize,
    /// `plateau`: how much the top-1 error (a fraction) must fall to count as an improvement.
    pub min_improvement: f64,
    /// `plateau`: how often the rate may fall (§5: three times).
    pub max_drops: usize,
    /// All kinds: the rate first rises linearly from 0 for this long.
    pub warmup_epochs: f64,
    /// `cosine`: the last rate, as a fraction of `train.lr`.
    pub final_fraction: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            // §5: divided by ten, by hand, whenever the validation error stopped improving, three
            // times in all. The 2012 files show when that was for the paper's net: epochs 25, 51 and
            // 79. Fixed epochs repeat that run; `plateau` repeats the rule.
            kind: ScheduleKind::Steps,
            at: vec![25, 51, 79],
            factor: 0.1,
            patience: 5,
            min_improvement: 0.001,
            max_drops: 3,
            warmup_epochs: 0.0,
            final_fraction: 0.0,
        }
    }
}

/// TOML has no null: an absent path is an empty string.
mod empty_is_none {
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        path.clone().unwrap_or_default().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        let path = PathBuf::deserialize(deserializer)?;
        Ok(Some(path).filter(|path| !path.as_os_str().is_empty()))
    }
}
