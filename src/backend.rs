//! Which library carries what travels between ranks.
//!
//! NCCL where there are several GPUs and the library, the threads themselves elsewhere; what was asked
//! for by name is had or is an error. Nothing is sent here.

use tch::Device;

use crate::collective::nccl::{self, Unusable, Version};
use crate::config::BackendChoice;

/// What carries data between ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The threads lend each other their tensors.
    InProcess,
    /// NCCL, between GPUs.
    Nccl,
}

/// NCCL's switch for several ranks on one GPU.
const SHARING: &str = "NCCL_MULTI_RANK_GPU_ENABLE";

/// NCCL was asked for and cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--backend nccl: {why}; {advice}")]
pub struct BackendError {
    why: NotNccl,
    advice: &'static str,
}

/// Why NCCL is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum NotNccl {
    #[error("{0}")]
    Unusable(#[from] Unusable),
    #[error("it connects GPUs, and the devices are CPU threads")]
    NoGpus,
    #[error("NCCL {0} cannot put several ranks on one GPU; 2.30 and later can")]
    CannotShare(Version),
    #[error("several ranks are on one GPU, and {SHARING}=1 is not set")]
    MayNotShare,
}

impl NotNccl {
    fn advice(&self) -> &'static str {
        match self {
            Self::Unusable(Unusable::NoDriver) => {
                "install NVIDIA's driver, or use --backend in-process"
            }
            Self::Unusable(_) => "run scripts/get-libtorch --cuda, or use --backend in-process",
            Self::NoGpus => "use --device cuda, or --backend in-process",
            Self::CannotShare(_) | Self::MayNotShare => {
                "name each GPU once in --gpus, or use --backend in-process"
            }
        }
    }
}

/// The backend for `devices`, one per rank. Says in one line what `auto` came to.
///
/// # Errors
/// If NCCL is asked for and cannot be used.
pub fn choose(choice: BackendChoice, devices: &[Device]) -> Result<Backend, BackendError> {
    let sharing = sharing(devices);
    if sharing == Sharing::Some && devices[0].is_cuda() {
        tracing::warn!("several ranks share a GPU: good for tests, slower than one rank on it");
    }
    match choice {
        BackendChoice::InProcess => Ok(Backend::InProcess),
        BackendChoice::Nccl => match obstacle(devices, sharing, nccl::usable) {
            None => Ok(by_nccl()),
            Some(why) => Err(BackendError { advice: why.advice(), why }),
        },
        // CPU threads, or a device alone, leave nothing to choose, and nothing to say.
        BackendChoice::Auto if devices.len() == 1 || !devices[0].is_cuda() => {
            Ok(Backend::InProcess)
        }
        BackendChoice::Auto => Ok(match obstacle(devices, sharing, nccl::usable) {
            None => by_nccl(),
            Some(why) => {
                tracing::info!("GPUs exchange data through this process, without NCCL: {why}");
                Backend::InProcess
            }
        }),
    }
}

fn by_nccl() -> Backend {
    if let Ok(version) = nccl::usable() {
        tracing::info!("GPUs exchange data by NCCL {version}");
    }
    Backend::Nccl
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    None,
    Some,
}

fn sharing(devices: &[Device]) -> Sharing {
    let is_again = |i: usize| devices[..i].contains(&devices[i]);
    if (0..devices.len()).any(is_again) { Sharing::Some } else { Sharing::None }
}

fn obstacle(
    devices: &[Device],
    sharing: Sharing,
    usable: impl FnOnce() -> Result<Version, Unusable>,
) -> Option<NotNccl> {
    if !devices.iter().all(|device| device.is_cuda()) {
        return Some(NotNccl::NoGpus);
    }
    match (usable(), sharing) {
        (Err(why), _) => Some(why.into()),
        (Ok(_), Sharing::None) => None,
        (Ok(version), _) if !version.shares_gpus() => Some(NotNccl::CannotShare(version)),
        (Ok(_), _) if std::env::var(SHARING).is_ok_and(|value| value == "1") => None,
        (Ok(_), _) => Some(NotNccl::MayNotShare),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: [Device; 2] = [Device::Cuda(0), Device::Cuda(1)];
    const TORCHS: Version = Version::new(2, 28, 9);

    #[test]
    fn cpu_threads_exchange_in_process_and_nccl_by_name_is_an_error_that_says_what_to_do() {
        let threads = [Device::Cpu; 2];
        assert_eq!(choose(BackendChoice::Auto, &threads), Ok(Backend::InProcess));
        let error = choose(BackendChoice::Nccl, &threads).expect_err("no GPUs").to_string();
        assert_eq!(
            error,
            "--backend nccl: it connects GPUs, and the devices are CPU threads; use --device cuda, or \
             --backend in-process"
        );
    }

    #[test]
    fn distinct_gpus_use_nccl_if_it_is_there() {
        assert_eq!(obstacle(&TWO, Sharing::None, || Ok(TORCHS)), None);
        let missing = obstacle(&TWO, Sharing::None, || Err(Unusable::NoLibrary)).expect("missing");
        let text = missing.to_string();
        assert!(text.starts_with("no libnccl.so (looked in LD_LIBRARY_PATH, "), "{text}");
        assert!(missing.advice().contains("scripts/get-libtorch --cuda"));
        let old = || Err(Unusable::TooOld(Version::new(2, 8, 3)));
        let text = obstacle(&TWO, Sharing::None, old).expect("too old").to_string();
        assert_eq!(text, "libnccl.so is NCCL 2.8.3, older than 2.18.0");
    }

    #[test]
    fn a_shared_gpu_needs_an_nccl_that_can_share_it() {
        let found = obstacle(&[Device::Cuda(0); 2], Sharing::Some, || Ok(TORCHS));
        assert_eq!(found, Some(NotNccl::CannotShare(TORCHS)));
    }
}
