//! Where our CUDA kernels meet libtorch's tensors: which GPU and stream they run on, and whether.
//!
//! Kernels join the stream libtorch uses on this thread. They are ordered with its operations there, and
//! memory that was allocated on that stream is handed out again only for work behind them. Where there
//! are no kernels at all, because the driver, NVRTC or a GPU new enough is missing, layers take
//! libtorch's operations and one warning says why; a kernel that cannot be compiled is an error.

use std::sync::OnceLock;

use tch::Device;

use crate::kernels::cuda::gpu::Lane;
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

fn lane(ordinal: usize) -> anyhow::Result<Lane> {
    Ok(Lane::on(current_stream(ordinal)?)?)
}
