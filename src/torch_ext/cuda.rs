//! A thread's place on a GPU: its stream. FFI: libtorch's C shim for CUDA.
//!
//! The functions live in libtorch_cuda.so and are looked up at run time, as that library may be absent.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// `aoti_torch_get_current_cuda_stream` of libtorch 2.11; returns 0 if it worked.
type CurrentStream = unsafe extern "C" fn(i32, *mut *mut c_void) -> i32;

/// This thread's current stream on GPU `device`, a `cudaStream_t`; libtorch keeps it alive.
///
/// # Errors
/// If libtorch's CUDA half is not loaded, or has no such device.
pub fn current_stream(device: usize) -> Result<*mut c_void> {
    static FOUND: OnceLock<Option<CurrentStream>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let name = c"aoti_torch_get_current_cuda_stream";
        // SAFETY: looks a name up among the libraries already loaded; nothing is called.
        let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        // SAFETY: libtorch 2.11 exports the function under this name with this signature.
        (!symbol.is_null())
            .then(|| unsafe { std::mem::transmute::<*mut c_void, CurrentStream>(symbol) })
    });
    let current_stream =
        found.context("libtorch_cuda.so is not loaded; scripts/get-libtorch --cuda installs it")?;
    let mut stream = std::ptr::null_mut();
    // SAFETY: the result outlives the call.
    let code = unsafe { current_stream(i32::try_from(device)?, &raw mut stream) };
    ensure!(
        code == 0,
        "libtorch knows no current stream of GPU {device} (its own message is above)"
    );
    Ok(stream)
}
