//! The flags of `draw`.

use std::path::PathBuf;

use clap::Args;

use crate::config::DeviceChoice;

/// The flags of `draw`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
conv1-filters.png shows the filters of the first layer, a band for each column of the network, as in \
figure 3 of the paper: each filter on a scale of its own, grey where it is zero. A folder for each image \
has 00-input.png, what the network is shown of it, and a sheet for every layer that has maps, \
01-conv1.png and so on: all maps of a layer on one scale, zero black, or grey where some values are \
negative. What was there under these names is replaced.")]
pub struct DrawArgs {
    /// A checkpoint, or the folder of a run for its latest one
    #[arg(long, value_name = "PATH")]
    pub model: PathBuf,
    /// JPEG or PNG files; without any, only the filters are drawn
    #[arg(value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// The folder for the pictures, made if it is missing
    #[arg(short, long, value_name = "DIR", default_value = "drawings")]
    pub output: PathBuf,
    /// A GPU, or CPU threads in its place
    #[arg(long, value_enum, default_value = "auto")]
    pub device: DeviceChoice,
}
