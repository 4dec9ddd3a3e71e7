//! Our kernels and layers on a GPU, checked by the program itself: such machines often have no Rust.
//!
//! `gpu-check kernels` compares, `gpu-check speed` measures. Both print one line of JSON; tests and
//! `scripts/gpu-check` read it.

mod layers;
mod speed;

use anyhow::{Context, Result};
use serde_json::json;
use tch::Device;

use crate::cli::{GpuCheckKernelsArgs, GpuCheckSpeedArgs};
use crate::config::{DeviceChoice, Gpus};
use crate::cuda;
use crate::device;
use crate::exit::Exit;
use crate::kernels::cuda::check;
pub use crate::kernels::cuda::check::Outcome;

/// The device to check: the first GPU, or the CPU.
fn device(choice: DeviceChoice) -> Result<Device> {
    device::choose(choice, &Gpus::Count(1))?.into_iter().next().context("no device")
}

/// Every comparison on `device`: kernels with their twins where it is a GPU, layers and optimizers
/// with the CPU's in fp64 on either.
///
/// # Errors
/// If a kernel cannot be compiled or run, or libtorch fails.
pub fn outcomes(device: Device) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    if device != Device::Cpu {
        let on = cuda::engine(device).context("without kernels there is nothing to check")?;
        outcomes.extend(check::all(&on)?);
    }
    outcomes.extend(layers::all(device)?);
    Ok(outcomes)
}

/// Prints all comparisons.
///
/// # Errors
/// As [`outcomes`], or if there is no such device.
#[allow(clippy::print_stdout, reason = "the result of the command")]
pub fn kernels(args: &GpuCheckKernelsArgs) -> Result<Exit> {
    let outcomes = outcomes(device(args.device)?)?;
    let failed: Vec<_> = outcomes.iter().filter(|outcome| !outcome.is_ok()).collect();
    println!("{}", json!({ "outcomes": outcomes, "failed": failed }));
    Ok(if failed.is_empty() { Exit::Ok } else { Exit::Failure })
}

/// Prints the time of every kernel.
///
/// # Errors
/// If there is no GPU, or a kernel fails.
#[allow(clippy::print_stdout, reason = "the result of the command")]
pub fn speed(args: &GpuCheckSpeedArgs) -> Result<()> {
    let device = device(DeviceChoice::Cuda)?;
    let on = cuda::engine(device).context("without kernels there is nothing to measure")?;
    println!("{}", speed::measure(on, args.batch)?);
    Ok(())
}
