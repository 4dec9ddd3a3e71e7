//! The numbers about colours that a configuration gives, or leaves to be found.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Whose colours `auto` means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum StatsFrom {
    /// Constants published for ImageNet.
    #[default]
    Imagenet,
    /// What `alexnet-mgpu stats` fitted and left with the data.
    Fitted,
    /// A file that `alexnet-mgpu stats --output` wrote.
    File(PathBuf),
}

impl From<String> for StatsFrom {
    fn from(text: String) -> Self {
        match text.as_str() {
            "imagenet" | "" => Self::Imagenet,
            "fitted" => Self::Fitted,
            _ => Self::File(text.into()),
        }
    }
}

impl From<StatsFrom> for String {
    fn from(from: StatsFrom) -> Self {
        match from {
            StatsFrom::Imagenet => "imagenet".into(),
            StatsFrom::Fitted => "fitted".into(),
            // As with a checkpoint's path: it came from UTF-8.
            StatsFrom::File(path) => path.to_string_lossy().into_owned(),
        }
    }
}

/// What is subtracted from pixels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a list [red, green, blue], \"auto\" or \"image\"")]
pub enum Mean {
    /// By its name.
    Named(MeanName),
    /// This colour.
    Colour([f64; 3]),
}

/// What a mean is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MeanName {
    /// The mean colour of the statistics.
    Auto,
    /// Their mean image.
    Image,
}

impl Mean {
    /// The mean image.
    pub const IMAGE: Self = Self::Named(MeanName::Image);
}

impl Default for Mean {
    fn default() -> Self {
        Self::Named(MeanName::Auto)
    }
}

impl fmt::Display for Mean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(MeanName::Auto) => f.write_str("auto"),
            Self::Named(MeanName::Image) => f.write_str("image"),
            Self::Colour(colour) => write!(f, "{colour:?}"),
        }
    }
}

/// Numbers, or the word `auto` for those of the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a list of numbers or \"auto\"")]
pub enum Given<T> {
    /// Not given.
    Auto(Auto),
    /// These.
    Numbers(T),
}

/// The word `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auto {
    /// The word.
    Auto,
}

impl<T> Given<T> {
    /// The numbers, if they are given.
    pub fn numbers(&self) -> Option<&T> {
        match self {
            Self::Auto(_) => None,
            Self::Numbers(numbers) => Some(numbers),
        }
    }
}

impl<T> Default for Given<T> {
    fn default() -> Self {
        Self::Auto(Auto::Auto)
    }
}

impl<T> From<T> for Given<T> {
    fn from(numbers: T) -> Self {
        Self::Numbers(numbers)
    }
}

impl<T: fmt::Debug> fmt::Display for Given<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto(_) => f.write_str("auto"),
            Self::Numbers(numbers) => write!(f, "{numbers:?}"),
        }
    }
}
