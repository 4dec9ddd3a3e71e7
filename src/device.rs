//! The devices of this machine, and how many threads each may use.
//!
//! Without a GPU, CPU threads stand in for devices, so that every mode runs anywhere.

use std::sync::Once;

use tch::{Cuda, Device};

use crate::config::{DeviceChoice, Gpus};
use crate::kernels::cuda::gpu;
use crate::torch_ext;

/// A device that was asked for and cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// CUDA is not to be had at all.
    #[error("--device cuda: {why}; {advice}")]
    NoCuda {
        /// The reason.
        why: String,
        /// What to do.
        advice: &'static str,
    },
    /// Fewer GPUs than asked for.
    #[error(
        "{asked} GPU(s) were asked for and this machine has {found}; use --gpus {found}, --gpus all, \
         --gpus 0,0 for two ranks on one GPU, or --device cpu for CPU threads as devices"
    )]
    TooMany {
        /// The number asked for.
        asked: usize,
        /// The number there are.
        found: usize,
    },
    /// An index beyond the last GPU.
    #[error(
        "there is no GPU {index}: this machine has {found}, numbered from 0; name others in --gpus"
    )]
    NoSuchIndex {
        /// The index asked for.
        index: usize,
        /// The number there are.
        found: usize,
    },
    /// More CPU devices than threads would make sense of.
    #[error("{asked} CPU devices were asked for; {limit} is the limit, and 2 or 4 show every mode")]
    TooManyThreads {
        /// The number asked for.
        asked: usize,
        /// The limit.
        limit: usize,
    },
}

/// Each CPU device is a replica in memory: far more than cores only fill it.
const MAX_CPU_DEVICES: usize = 64;

/// Why CUDA cannot be used.
struct Obstacle {
    why: String,
    advice: &'static str,
    /// GPUs that there are all the same.
    num_unused: usize,
}

/// The number of GPUs, if they can be used.
fn cuda_devices() -> Result<usize, Obstacle> {
    const INSTALL: &str = "run scripts/get-libtorch --cuda, or use --device cpu";
    const DRIVER: &str = "install NVIDIA's driver, check CUDA_VISIBLE_DEVICES, or use --device cpu";
    const UPDATE: &str = "update NVIDIA's driver, which has to be as new as libtorch's CUDA (`nvidia-smi` \
                          names the driver's), or use --device cpu";
    torch_ext::load_cuda().map_err(|why| {
        let why = format!("no CUDA libraries ({why})");
        Obstacle { why, advice: INSTALL, num_unused: gpu::count().unwrap_or(0) }
    })?;
    if let Ok(count @ 1..) = usize::try_from(Cuda::device_count()) {
        return Ok(count);
    }
    Err(match gpu::count() {
        Ok(num_unused @ 1..) => {
            let why = format!("libtorch cannot use the {num_unused} GPU(s) there are");
            Obstacle { why, advice: UPDATE, num_unused }
        }
        _ => Obstacle {
            why: "no NVIDIA driver, or no GPU".to_owned(),
            advice: DRIVER,
            num_unused: 0,
        },
    })
}

/// The devices of a run, one per rank.
///
/// # Errors
/// If GPUs were asked for that are not there.
pub fn choose(choice: DeviceChoice, gpus: &Gpus) -> Result<Vec<Device>, DeviceError> {
    let found = if choice == DeviceChoice::Cpu { Ok(0) } else { cuda_devices() };
    match (choice, found) {
        (DeviceChoice::Cuda, Err(Obstacle { why, advice, .. })) => {
            Err(DeviceError::NoCuda { why, advice })
        }
        (DeviceChoice::Cpu, _) => cpu_devices(gpus),
        (_, Err(Obstacle { why, advice, num_unused })) => {
            // Commands that make several worlds say it once.
            static SAID: Once = Once::new();
            SAID.call_once(|| match num_unused {
                0 => {
                    tracing::info!("no GPU: CPU threads stand in for GPUs");
                    tracing::debug!("{why}; {advice}");
                }
                _ => tracing::warn!("{why}: CPU threads stand in for them; {advice}"),
            });
            cpu_devices(gpus)
        }
        (_, Ok(found)) => cuda_list(gpus, found),
    }
}

/// Two devices to try modes on: of a single GPU twice the same.
#[must_use]
pub fn two(choice: DeviceChoice) -> Gpus {
    let found = if choice == DeviceChoice::Cpu { Ok(0) } else { cuda_devices() };
    match found {
        Ok(1) => Gpus::List(vec![0, 0]),
        _ => Gpus::Count(2),
    }
}

fn cpu_devices(gpus: &Gpus) -> Result<Vec<Device>, DeviceError> {
    let num_devices = gpus.num_devices().unwrap_or(1);
    if num_devices > MAX_CPU_DEVICES {
        return Err(DeviceError::TooManyThreads { asked: num_devices, limit: MAX_CPU_DEVICES });
    }
    Ok(vec![Device::Cpu; num_devices])
}

fn cuda_list(gpus: &Gpus, found: usize) -> Result<Vec<Device>, DeviceError> {
    let indices = match gpus {
        Gpus::All => (0..found).collect(),
        Gpus::Count(count) if *count > found => {
            return Err(DeviceError::TooMany { asked: *count, found });
        }
        Gpus::Count(count) => (0..*count).collect(),
        Gpus::List(list) => list.clone(),
    };
    match indices.iter().find(|&&index| index >= found) {
        Some(&index) => Err(DeviceError::NoSuchIndex { index, found }),
        None => Ok(indices.into_iter().map(Device::Cuda).collect()),
    }
}

/// The threads of each of `num_devices` CPU devices, out of `threads` in all (0: every core).
#[must_use]
pub fn threads_per_device(threads: usize, num_devices: usize) -> usize {
    let all = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    (all / num_devices).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_beyond_those_found_are_refused_by_name() {
        let error = cuda_list(&Gpus::List(vec![0, 5]), 2).expect_err("there is no GPU 5");
        assert!(error.to_string().contains("no GPU 5"), "{error}");
        let error = cuda_list(&Gpus::Count(3), 2).expect_err("there are two");
        assert!(error.to_string().contains("has 2"), "{error}");
        assert_eq!(cuda_list(&Gpus::All, 2).expect("both"), [Device::Cuda(0), Device::Cuda(1)]);
    }

    #[test]
    fn cpu_devices_share_the_threads_and_have_one_at_least() {
        assert_eq!(threads_per_device(8, 4), 2);
        assert_eq!(threads_per_device(2, 4), 1);
    }
}
