//! Where our CUDA kernels meet libtorch's tensors: which GPU and stream they run on, and whether.
//!
//! Kernels join the stream libtorch uses on this thread, so they are ordered with its operations, and
//! memory that libtorch hands out again is only reused after them. Where kernels cannot be compiled,
//! layers fall back on libtorch's operations and one warning says why.

use std::sync::OnceLock;

use tch::Device;

use crate::kernels::cuda::gpu::{Gpu, Lane};
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
    let gpu = Gpu::of(ordinal)?;
    Ok(gpu.on(current_stream(ordinal)?))
}
