//! The flags of `gpu-check`, a command for this project's own checks, which `--help` does not list.

use clap::{Args, Subcommand};

use crate::config::DeviceChoice;

/// What can be checked on GPUs.
#[derive(Debug, Subcommand)]
pub enum GpuCheckCommand {
    /// Every kernel against its CPU twin, every layer against the CPU in 64-bit floats
    Kernels(GpuCheckKernelsArgs),
    /// The time of every kernel, and its share of a copy's bandwidth
    Speed(GpuCheckSpeedArgs),
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
    #[arg(value_parser = super::positive())]
    pub batch: usize,
}
