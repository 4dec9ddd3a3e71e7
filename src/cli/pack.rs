//! The flags of `pack`.

use std::path::PathBuf;

use clap::{Args, builder::RangedU64ValueParser};

use super::{fraction, positive, threads};
use crate::data::Geometry;
use crate::data::packed::Format;

/// The flags of `pack`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "Interrupted in any way, the same command goes on where it was, and \
ends with the same files.")]
pub struct PackArgs {
    /// The image set, as for training, except `generated`
    #[arg(value_name = "SRC", required_unless_present = "verify")]
    pub src: Option<PathBuf>,
    /// The folder to write: new, empty, or an unfinished pack of the same SRC and flags
    #[arg(value_name = "DST", required_unless_present = "verify")]
    pub dst: Option<PathBuf>,
    /// What is stored of each image
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// The side of the stored squares
    #[arg(long, value_name = "PIXELS", default_value = "256")]
    #[arg(value_parser = RangedU64ValueParser::<u32>::new().range(1..=u64::from(Geometry::MAX_SIDE)))]
    pub size: u32,
    /// The quality of JPEG files, 1 to 100 [default: 90]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u8>::new().range(1..=100))]
    pub quality: Option<u8>,
    /// Images to a file [default: 1 GiB of pixels, or 4000 JPEG files]
    #[arg(long, value_name = "N", value_parser = positive())]
    pub shard_images: Option<usize>,
    /// Threads; 0 is one per core
    #[arg(short = 'j', long, value_name = "N", default_value = "0", value_parser = threads())]
    pub workers: usize,
    /// Fail if more than this fraction of a split cannot be read; what cannot is left out
    #[arg(long, value_name = "FRACTION", default_value = "0.01", value_parser = fraction)]
    pub max_bad_fraction: f64,
    /// Check the files of a packed folder against its manifest, and do nothing else
    #[arg(long, value_name = "DST", conflicts_with_all = ["src", "dst"])]
    pub verify: Option<PathBuf>,
}
