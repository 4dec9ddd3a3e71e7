//! A thread's place on a GPU: its device and its stream. FFI: libtorch's C shim for CUDA.
//!
//! The functions live in libtorch_cuda.so and are looked up at run time, as that library may be absent.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, anyhow, ensure};
use crossbeam_channel::{Sender, bounded};
use cudarc::driver::{CudaContext, CudaStream, sys};
use tch::Device;

use crate::kernels::cuda::gpu::Stream;

/// The shim's opaque guard.
type Guard = *mut c_void;

/// The functions of `torch/csrc/inductor/aoti_torch/c/shim.h` and `torch/csrc/stable/c/shim.h` used
/// here. Each returns 0 if it worked.
#[derive(Clone, Copy)]
struct Shim {
    create_guard: unsafe extern "C" fn(i32, *mut Guard) -> i32,
    delete_guard: unsafe extern "C" fn(Guard) -> i32,
    current_stream: unsafe extern "C" fn(i32, *mut *mut c_void) -> i32,
    stream_from_pool: unsafe extern "C" fn(bool, i32, *mut *mut c_void) -> i32,
    set_current_stream: unsafe extern "C" fn(*mut c_void, i32) -> i32,
}

impl Shim {
    /// The functions, looked up once: every launch of a kernel asks for its stream.
    fn get() -> Result<Self> {
        static FOUND: OnceLock<Shim> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Ok(*found);
        }
        // What is missing now may be loaded later, so only success is kept.
        let found = Self::find()?;
        Ok(*FOUND.get_or_init(|| found))
    }

    fn find() -> Result<Self> {
        // SAFETY: libtorch 2.11 declares each function with the type of the field it is stored in.
        unsafe {
            Ok(Self {
                create_guard: symbol(c"aoti_torch_create_cuda_guard")?,
                delete_guard: symbol(c"aoti_torch_delete_cuda_guard")?,
                current_stream: symbol(c"aoti_torch_get_current_cuda_stream")?,
                stream_from_pool: symbol(c"torch_get_cuda_stream_from_pool")?,
                set_current_stream: symbol(c"torch_set_current_cuda_stream")?,
            })
        }
    }
}

/// A function of a library that is already loaded.
///
/// # Safety
/// `F` has to be the type of the function called `name`.
unsafe fn symbol<F: Copy>(name: &CStr) -> Result<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: looks a name up among the libraries already loaded; nothing is called.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    ensure!(
        !found.is_null(),
        "libtorch_cuda.so has no {}: it is not loaded, or not that of libtorch 2.11 (scripts/get-libtorch \
         --cuda installs it)",
        name.to_string_lossy()
    );
    // SAFETY: the sizes agree, and the caller vouches for the type.
    Ok(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&found) })
}

fn check(what: &str, device: usize, code: i32) -> Result<()> {
    ensure!(code == 0, "libtorch cannot {what} of GPU {device} (its own message is above)");
    Ok(())
}

fn index(device: usize) -> Result<i32> {
    i32::try_from(device).map_err(|_| anyhow!("there is no GPU {device}"))
}

/// A thread's stay on a device; the thread's former device is back when it ends.
///
/// Streams other than the common default one let ranks that share a GPU wait for each other, which on
/// one stream would block both.
#[must_use]
pub struct Stay {
    /// Nothing on the CPU.
    guard: Option<(Shim, Guard)>,
    /// It belongs to the thread.
    not_send: PhantomData<*mut ()>,
}

impl Stay {
    /// Makes `device` this thread's current device, with the next stream of libtorch's pool as its current
    /// one. The pool has 32 for each GPU and goes round: more stays than that share streams. On the CPU
    /// there is nothing to do.
    ///
    /// # Errors
    /// If libtorch's CUDA half is not loaded, or has no such device.
    pub fn on(device: Device) -> Result<Self> {
        let Device::Cuda(device) = device else {
            return Ok(Self { guard: None, not_send: PhantomData });
        };
        let (shim, index) = (Shim::get()?, index(device)?);
        let (mut guard, mut stream) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the results outlive the calls; the guard is deleted once, by the same thread.
        check("make a context", device, unsafe { (shim.create_guard)(index, &raw mut guard) })?;
        let stay = Self { guard: Some((shim, guard)), not_send: PhantomData };
        // SAFETY: the stream is one of libtorch's own, which live as long as the process.
        unsafe {
            let code = (shim.stream_from_pool)(false, index, &raw mut stream);
            check("take a stream", device, code)?;
            check("use a stream", device, (shim.set_current_stream)(stream, index))?;
        }
        Ok(stay)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if let Some((shim, guard)) = self.guard.take() {
            // SAFETY: made by `create_guard` on this thread, and deleted here only.
            let code = unsafe { (shim.delete_guard)(guard) };
            if code != 0 {
                tracing::debug!("libtorch could not restore a thread's device");
            }
        }
    }
}

/// This thread's current stream on GPU `device`.
///
/// # Errors
/// If libtorch's CUDA half is not loaded, or has no such device.
pub fn current_stream(device: usize) -> Result<Stream> {
    let mut stream = std::ptr::null_mut();
    // SAFETY: the result outlives the call.
    let code = unsafe { (Shim::get()?.current_stream)(index(device)?, &raw mut stream) };
    check("find the current stream", device, code)?;
    // SAFETY: the shim returned the `cudaStream_t` of a stream of the device's primary context that
    // libtorch has made and never destroys; or null, the default stream.
    Ok(unsafe { Stream::from_raw(device, stream) })
}

/// [`current_stream`] as cudarc knows streams. Whoever orders other streams with it does so by events.
///
/// # Errors
/// If libtorch's CUDA half is not loaded, or there is no such device.
pub fn borrowed_stream(device: usize) -> Result<Arc<CudaStream>> {
    let stream = current_stream(device)?;
    // libtorch has opened the device, so the driver's library is there.
    let context = CudaContext::new(device).with_context(|| format!("GPU {device}"))?;
    // SAFETY: libtorch's streams belong to the device's primary context, as `context` is, and live as
    // long as the process.
    Ok(unsafe { context.wrap_borrowed_stream(stream.as_raw().cast()) })
}

/// Keeps a stream from going on until it is dropped: for checks of what a GPU that hangs leads to.
pub struct Hold {
    _release: Sender<()>,
}

impl Hold {
    /// Lets `stream` wait behind the work it has.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn of(stream: &CudaStream) -> Result<Self> {
        let (release, held) = bounded::<()>(0);
        // Nothing is ever sent: the channel closes.
        call_host(stream, move || held.recv().unwrap_or(()))?;
        Ok(Self { _release: release })
    }
}

/// Lets the host do `work` when `stream` comes to it; what is behind it on the stream waits. `work` may not
/// call CUDA.
///
/// # Errors
/// If the driver refuses.
pub fn call_host(stream: &CudaStream, work: impl FnOnce() + Send + 'static) -> Result<()> {
    type Work = Box<dyn FnOnce() + Send>;
    extern "C" fn run(work: *mut c_void) {
        // SAFETY: the box made below, which is passed here once.
        let work = unsafe { Box::from_raw(work.cast::<Work>()) };
        work();
    }
    stream.context().bind_to_thread()?;
    let work: Box<Work> = Box::new(Box::new(work));
    let work = Box::into_raw(work).cast();
    // SAFETY: the stream is live, and calls `run` once, on a thread that may do what is `Send`.
    let code = unsafe { sys::cuLaunchHostFunc(stream.cu_stream(), Some(run), work) };
    code.result().context("a stream takes no work of the host's")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_on_the_cpu_without_cuda() {
        assert!(Stay::on(Device::Cpu).is_ok());
    }

    #[test]
    fn a_gpu_that_cannot_be_had_is_an_error_that_says_why() {
        let error = Stay::on(Device::Cuda(4000)).err().expect("no machine has as many").to_string();
        let known = ["scripts/get-libtorch --cuda", "GPU 4000"];
        assert!(known.iter().any(|words| error.contains(words)), "{error}");
    }
}
