//! The flags of `gpu-check`, a command for this project's own checks, which `--help` does not list.

use clap::{Args, Subcommand};

use super::positive;
use crate::config::{BackendChoice, DeviceChoice};

/// What can be checked on GPUs.
#[derive(Debug, Subcommand)]
pub enum GpuCheckCommand {
    /// The contract of the collectives
    Collectives(GpuCheckCollectivesArgs),
    /// Every kernel against its CPU twin, every layer against the CPU in 64-bit floats
    Kernels(GpuCheckKernelsArgs),
    /// The time of every kernel, and its share of a copy's bandwidth
    Speed(GpuCheckSpeedArgs),
    /// Training steps in turns with other programs: each line of standard input holds flags of `bench step`
    Steps,
}

/// The flags of `gpu-check collectives`.
#[derive(Args, Clone, Debug)]
pub struct GpuCheckCollectivesArgs {
    /// How many ranks, one to see whether NCCL works at all; more than GPUs share them, which NCCL 2.30
    /// does with NCCL_MULTI_RANK_GPU_ENABLE=1
    #[arg(long, value_name = "N", default_value = "2", value_parser = positive())]
    pub ranks: usize,
    /// What carries data between the ranks
    #[arg(long, value_enum, default_value = "auto")]
    pub backend: BackendChoice,
    /// GPUs; CPU threads only if they are named, to check the check
    #[arg(long, value_enum, default_value = "cuda")]
    pub device: DeviceChoice,
}

/// The flags of `gpu-check kernels`.
#[derive(Args, Clone, Debug)]
pub struct GpuCheckKernelsArgs {
    /// A GPU; with `cpu` layers only, as a rehearsal
    #[arg(long, value_enum, default_value = "cuda")]
    pub device: DeviceChoice,
}

/// The flags of `gpu-check speed`.
#[derive(Args, Clone, Debug)]
pub struct GpuCheckSpeedArgs {
    /// Images that maps and vectors are made for
    #[arg(short, long, visible_alias = "batch-size", value_name = "N", default_value = "512")]
    #[arg(value_parser = positive())]
    pub batch: usize,
}
