//! The flags of `stats`.

use std::path::PathBuf;

use clap::{Args, builder::RangedU64ValueParser};

use super::{fraction, positive, threads};
use crate::data::Geometry;

/// The flags of `stats`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
The file goes into the data folder, beside the shards of a pattern, where training finds it with \
--set data.stats=fitted; \
--set data.mean=image then subtracts the mean image as the paper did. The result depends on the \
images, --resize and --limit only, not on the number of threads.")]
pub struct StatsArgs {
    /// The image set, as for training, except `generated`
    pub data: PathBuf,
    /// The shorter side after resizing, as data.resize in training; 0: as stored
    #[arg(long, value_name = "PIXELS", default_value = "256")]
    #[arg(value_parser = RangedU64ValueParser::<u32>::new().range(0..=u64::from(Geometry::MAX_SIDE)))]
    pub resize: u32,
    /// Look at N images only, evenly spaced over the training split
    #[arg(long, value_name = "N", value_parser = positive())]
    pub limit: Option<usize>,
    /// Write this file [default: alexnet-stats.safetensors in the data folder]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Threads; 0 is one per core
    #[arg(short = 'j', long, value_name = "N", default_value = "0", value_parser = threads())]
    pub workers: usize,
    /// Fail if more than this fraction of the images cannot be read; what cannot is left out
    #[arg(long, value_name = "FRACTION", default_value = "0.01", value_parser = fraction)]
    pub max_bad_fraction: f64,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}
