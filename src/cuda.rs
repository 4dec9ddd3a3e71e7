//! Where our CUDA kernels meet libtorch's tensors: which GPU and stream they run on, and whether.
//!
//! Kernels join the stream libtorch uses on this thread. They are ordered with its operations there, and
//! memory that was allocated on that stream is handed out again only for work behind them. Where there
//! are no kernels at all, because the driver, NVRTC or a GPU new enough is missing, layers take
//! libtorch's operations and one warning says why; a kernel that cannot be compiled is an error.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use tch::Device;

use crate::data::Pinning;
use crate::kernels::cuda::gpu::{Gpu, Lane};
use crate::kernels::cuda::pinned::Pinned;
use crate::torch_ext::cuda::current_stream;

/// What runs our kernels on `device`; nothing for the CPU, whose kernels are functions, and where
/// they cannot be had.
#[must_use]
pub fn engine(device: Device) -> Option<Lane> {
    static WARNED: OnceLock<()> = OnceLock::new();
    let Device::Cuda(ordinal) = device else { return None };
    match lane(ordinal) {
        Ok(lane) => Some(lane),
        Err(error) => {
            WARNED.get_or_init(|| {
                tracing::warn!(
                    "our CUDA kernels are not used, libtorch's slower operations are: {error:#}"
                );
            });
            None
        }
    }
}

/// Whether our kernels run on `device`: on the CPU always.
#[must_use]
pub fn runs_own_kernels(device: Device) -> bool {
    device == Device::Cpu || engine(device).is_some()
}

/// Whether `device` has our kernels. Unlike [`engine`] for threads that compute nothing themselves.
#[must_use]
pub fn gpu_has_kernels(device: Device) -> bool {
    matches!(device, Device::Cuda(ordinal) if Gpu::of(ordinal).is_ok())
}

/// What pins the memory of batches for copies to `device`; nothing for the CPU.
#[must_use]
pub fn pinning(device: Device) -> Option<Arc<dyn Pinning>> {
    let Device::Cuda(ordinal) = device else { return None };
    Some(Arc::new(PinnedFor { ordinal }))
}

/// Pins memory with the context of a GPU, for all of them.
#[derive(Debug)]
struct PinnedFor {
    ordinal: usize,
}

impl Pinning for PinnedFor {
    fn pin(&self, address: usize, num_bytes: usize) -> Box<dyn Any + Send + Sync> {
        static WARNED: OnceLock<()> = OnceLock::new();
        let pinned = Gpu::of(self.ordinal).and_then(|gpu| Pinned::new(gpu, address, num_bytes));
        if let Err(error) = &pinned {
            WARNED.get_or_init(|| {
                tracing::warn!(
                    "the memory of batches is not pinned, so that copies to the GPU hold up the threads \
                     that ask for them: {error}"
                );
            });
        }
        Box::new(pinned.ok())
    }
}

fn lane(ordinal: usize) -> anyhow::Result<Lane> {
    Ok(Lane::on(current_stream(ordinal)?)?)
}
