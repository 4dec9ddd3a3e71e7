//! Host memory that a GPU copies from by itself. FFI: the driver's page locks.
//!
//! The driver locks whole pages, and none twice: whoever pins two pieces of memory sees to it that
//! they share no page. What the memory holds is not known here.
#![allow(unsafe_code)]

use std::ffi::c_void;

use cudarc::driver::sys;

use super::error::CudaError;
use super::gpu::{Gpu, driver};

/// No page is smaller, in bytes.
const PAGE: usize = 1 << 12;

/// A lock on the pages of some memory, for every GPU; lifted when dropped, which has to be before the
/// memory is given back.
pub struct Pinned {
    gpu: &'static Gpu,
    first: usize,
}

impl Pinned {
    /// Locks the pages of `num_bytes` bytes at `address`.
    ///
    /// # Errors
    /// If there is no such memory, or the driver or the system's limit does not allow it.
    pub fn new(gpu: &'static Gpu, address: usize, num_bytes: usize) -> Result<Self, CudaError> {
        let first = address / PAGE * PAGE;
        let len = (address + num_bytes).next_multiple_of(PAGE) - first;
        gpu.with_context(|| {
            let flags = sys::CU_MEMHOSTREGISTER_PORTABLE;
            // SAFETY: locks pages, whoever owns them, and reads and writes none.
            let code = unsafe { sys::cuMemHostRegister_v2(first as *mut c_void, len, flags) };
            driver("cuMemHostRegister", code.result())
        })?;
        Ok(Self { gpu, first })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let lifted = self.gpu.with_context(|| {
            // SAFETY: locked in `new`, and lifted here only.
            let code = unsafe { sys::cuMemHostUnregister(self.first as *mut c_void) };
            driver("cuMemHostUnregister", code.result())
        });
        if let Err(error) = lifted {
            tracing::debug!("{error}");
        }
    }
}
