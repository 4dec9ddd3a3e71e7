//! The words that a configuration chooses between.
//!
//! One type per choice serves the flag, the TOML key and the code; what a word does is written where
//! it is done.

use std::{fmt, path::PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Where a run starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Resume {
    /// From the initial weights. Written as the empty string.
    #[default]
    Off,
    /// From the latest checkpoint in the run's folder, or from the start if there is none.
    Auto,
    /// From this checkpoint, which has to exist.
    From(PathBuf),
}

impl From<String> for Resume {
    fn from(text: String) -> Self {
        match text.as_str() {
            "" => Self::Off,
            "auto" => Self::Auto,
            _ => Self::From(text.into()),
        }
    }
}

impl From<Resume> for String {
    fn from(resume: Resume) -> Self {
        match resume {
            Resume::Off => Self::new(),
            Resume::Auto => "auto".into(),
            // Paths come from TOML or from flags that clap checked to be UTF-8: nothing is lost.
            Resume::From(path) => path.to_string_lossy().into_owned(),
        }
    }
}

/// How the work is divided among the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One device holds the whole net.
    Single,
    /// Every device holds the net and takes a share of each batch.
    DataParallel,
    /// Each of two devices holds one column of the net and sees the whole batch (the paper, §3.2).
    Split,
    /// Every device holds the convolutions and takes a share of each batch through them, and holds a
    /// slice of each fully-connected layer, which sees the whole batch (arXiv 1404.5997).
    Hybrid,
}

/// What kind of device computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceChoice {
    /// GPUs if there are any, else CPU threads.
    Auto,
    /// CPU threads.
    Cpu,
    /// GPUs; without one the run fails.
    Cuda,
}

/// Which algorithms compute convolutions on GPUs; on CPUs they are always deterministic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithms {
    /// The fastest, found by trying.
    Fastest,
    /// Those of cuDNN's that give the same bits in every run.
    Deterministic,
    /// The same bits in every run, and all that fp32 has: without cuDNN, slow.
    Exact,
}

/// What carries data between devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendChoice {
    /// NCCL between GPUs if the library is there, else this process.
    Auto,
    /// NCCL; without it, or without GPUs, the run fails.
    Nccl,
    /// This process: its threads lend each other their tensors.
    InProcess,
}

/// The architectures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arch {
    /// The paper's net: two columns, 96-256-384-384-256 filters, LRN.
    Alexnet,
    /// "One weird trick" (arXiv 1404.5997), as torchvision has it: one column, 64 first filters, no
    /// LRN.
    AlexnetOwt,
    /// The paper's two columns, scaled down to images of 32x32.
    AlexnetCifar,
}

/// What the first layer is fed; see [`InputForm`](crate::net::arch::InputForm).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Input {
    /// As the architecture is defined.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// 227 x 227 pixels.
    #[value(name = "227")]
    #[serde(rename = "227")]
    Side227,
    /// 224 x 224 pixels, zeros on all sides.
    #[value(name = "224-padded")]
    #[serde(rename = "224-padded")]
    Side224Padded,
    /// 224 x 224 pixels, zeros on the right and at the bottom.
    #[value(name = "224-filled")]
    #[serde(rename = "224-filled")]
    Side224Filled,
}

/// Where the last pass over pixels is made: padding, reflection, colour noise, mean and the cast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// On GPUs; in the loader where CPU threads stand in for them, and for a mean image.
    #[default]
    Auto,
    /// By the loader's threads.
    Loader,
    /// On the device, to which bytes travel.
    Device,
}

/// The update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Stochastic gradient descent with momentum, in the form of §5.
    Momentum,
    /// Adam (arXiv 1412.6980).
    Adam,
}

/// What the network computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 32-bit floats, on GPUs too.
    Fp32,
    /// 32-bit floats whose products GPUs may form from 19 of the bits (TensorFloat-32); on CPUs as
    /// `fp32`.
    Tf32,
    /// bfloat16 activations and gradients, fp32 weights.
    Bf16,
    /// 64-bit floats, for comparing modes.
    Fp64,
}

/// The widest form in which gradients and activations travel between devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wire {
    /// As they are computed: that of `train.precision`.
    Computed,
    /// 32-bit floats.
    Fp32,
    /// bfloat16; sums over devices are still taken in the precision of the computation.
    Bf16,
}

/// The shape of the learning rate's curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Falls at given epochs.
    Steps,
    /// Falls when the validation error stops improving.
    Plateau,
    /// Stays.
    Constant,
    /// Follows half a cosine from `train.lr` down to its `final_fraction`.
    Cosine,
}

/// Prints each enum as the word that configures it.
macro_rules! display_as_value {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let value = self.to_possible_value().expect("no variant is hidden");
                f.write_str(value.get_name())
            }
        }
    )*};
}
display_as_value!(
    Mode,
    DeviceChoice,
    Algorithms,
    BackendChoice,
    Arch,
    Input,
    Finish,
    Optimizer,
    Precision,
    Wire,
    ScheduleKind
);
