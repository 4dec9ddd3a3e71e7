//! Our kernels and layers on a GPU, checked by the program itself: such machines often have no Rust.
//!
//! `gpu-check kernels` compares, `gpu-check speed` measures. Both print one line of JSON; tests and
//! `scripts/gpu-check` read it.

mod layers;
mod speed;

use std::panic::resume_unwind;

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
use crate::kernels::cuda::gpu::Lane;
use crate::stdout;

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
        let part = |part: check::Part| move || -> Result<_> { Ok(part(&engine(device)?)?) };
        for found in side_by_side(check::PARTS.map(part)) {
            outcomes.extend(found?);
        }
    }
    outcomes.extend(layers::all(device)?);
    Ok(outcomes)
}

/// What runs kernels on a GPU for this thread.
fn engine(device: Device) -> Result<Lane> {
    cuda::engine(device).context("the GPU has no kernels, so there is nothing to look at")
}

/// The results of all `parts`, each in a thread of its own.
fn side_by_side<T: Send, const N: usize>(parts: [impl FnOnce() -> T + Send; N]) -> [T; N] {
    std::thread::scope(|scope| {
        let threads = parts.map(|part| scope.spawn(part));
        threads.map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Prints all comparisons.
///
/// # Errors
/// As [`outcomes`], or if there is no such device.
pub fn kernels(args: &GpuCheckKernelsArgs) -> Result<Exit> {
    let outcomes = outcomes(device(args.device)?)?;
    let failed: Vec<_> = outcomes.iter().filter(|outcome| !outcome.is_ok()).collect();
    stdout::line(json!({ "outcomes": outcomes, "failed": failed }))?;
    Ok(if failed.is_empty() { Exit::Ok } else { Exit::Failure })
}

/// Prints the time of every kernel.
///
/// # Errors
/// If there is no GPU, or a kernel fails.
pub fn speed(args: &GpuCheckSpeedArgs) -> Result<()> {
    let device = device(DeviceChoice::Cuda)?;
    stdout::line(speed::measure(engine(device)?, args.batch)?)?;
    Ok(())
}
