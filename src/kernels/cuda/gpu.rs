//! A GPU as an engine for kernels. FFI: the only file that loads kernels and launches them.
//!
//! Contexts are the driver's primary ones, which libtorch uses too. Programs are compiled and loaded
//! when they are first launched, once per GPU. The stream is whatever the caller says; nothing here
//! waits for it but the copies and measurements of checks.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, c_void};
use std::fmt::Display;
use std::sync::{Mutex, OnceLock, PoisonError};

use cudarc::driver::{result, sys};

use super::cache::Cache;
use super::compile::{self, Capability};
use super::error::CudaError;
use super::launch::{Engine, Launch};
use super::machine::Machine;
use super::memory::{Slice, SliceMut};
use super::program::Program;

/// The parameters of a launch are copied to an array of this length.
const MAX_ARGUMENTS: usize = 16;

/// One GPU, for the whole of the process.
pub struct Gpu {
    context: Context,
    capability: Capability,
    cache: Cache,
    modules: Mutex<HashMap<Program, Module>>,
}

/// A primary context, which is never released.
#[derive(Clone, Copy, PartialEq)]
struct Context(sys::CUcontext);

/// A program that is loaded, for good, and those of its kernels that have been asked for.
struct Module {
    handle: sys::CUmodule,
    kernels: Vec<(&'static CStr, Kernel)>,
}

/// A function of a module.
#[derive(Clone, Copy)]
struct Kernel(sys::CUfunction);

// SAFETY: contexts, modules and functions are handles that the driver lets any thread use.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}
// SAFETY: as above.
unsafe impl Send for Module {}

/// A stream of one GPU. Whoever makes one vouches for it, so that it can be used without care.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    ordinal: usize,
    handle: sys::CUstream,
}

impl Stream {
    /// A stream of GPU `ordinal` by the runtime's handle; null is the default stream.
    ///
    /// # Safety
    /// It has to be a stream of that GPU's primary context, and to live as long as the process.
    #[must_use]
    pub unsafe fn from_raw(ordinal: usize, handle: *mut c_void) -> Self {
        Self { ordinal, handle: handle.cast() }
    }

    /// The runtime's handle.
    #[must_use]
    pub fn as_raw(self) -> *mut c_void {
        self.handle.cast()
    }
}

/// Whether kernels can be compiled and run in this process, as an error if not.
///
/// # Errors
/// [`CudaError::Missing`] names the library.
pub fn available() -> Result<(), CudaError> {
    has_driver()?;
    compile::available()
}

/// Whether NVIDIA's driver is there, as an error if not.
fn has_driver() -> Result<(), CudaError> {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    // SAFETY: opens the library, whose constructors have no preconditions.
    match PRESENT.get_or_init(|| unsafe { sys::is_culib_present() }) {
        true => Ok(()),
        false => {
            Err(CudaError::Missing { library: "libcuda.so.1", advice: "install NVIDIA's driver" })
        }
    }
}

/// The result of the driver's call `what`, whose name is only written out if it failed.
pub(super) fn driver<T>(
    what: impl Display,
    result: Result<T, result::DriverError>,
) -> Result<T, CudaError> {
    result.map_err(|error| CudaError::Driver { what: what.to_string(), why: describe(error) })
}

fn describe(error: result::DriverError) -> String {
    let text = |text: Result<&CStr, _>| text.map(|t| t.to_string_lossy().into_owned()).ok();
    match (text(error.error_name()), text(error.error_string())) {
        (Some(name), Some(description)) => format!("{name}, {description}"),
        _ => format!("{:?}", error.0),
    }
}

/// The number of GPUs that the driver has.
///
/// # Errors
/// If there is no driver, or it cannot be used.
pub fn count() -> Result<usize, CudaError> {
    has_driver()?;
    driver("cuInit", result::init())?;
    Ok(driver("cuDeviceGetCount", result::device::get_count())?.max(0) as usize)
}

impl Gpu {
    /// The GPU of this number.
    ///
    /// # Errors
    /// If a library or the GPU is missing, or it is too old for our kernels.
    pub fn of(ordinal: usize) -> Result<&'static Self, CudaError> {
        static GPUS: Mutex<Vec<(usize, &'static Gpu)>> = Mutex::new(Vec::new());
        let mut gpus = GPUS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, gpu)) = gpus.iter().find(|(number, _)| *number == ordinal) {
            return Ok(gpu);
        }
        let gpu = Self::open(ordinal)?;
        // Lives as long as the process, as the context and libtorch do.
        let gpu = &*Box::leak(Box::new(gpu));
        gpus.push((ordinal, gpu));
        Ok(gpu)
    }

    fn open(ordinal: usize) -> Result<Self, CudaError> {
        use sys::CUdevice_attribute as Attribute;
        available()?;
        driver("cuInit", result::init())?;
        let device = driver("cuDeviceGet", result::device::get(ordinal as i32))?;
        let attribute = |attribute| -> Result<u32, CudaError> {
            // SAFETY: `device` came from the driver.
            let value = unsafe { result::device::get_attribute(device, attribute) };
            Ok(driver("cuDeviceGetAttribute", value)? as u32)
        };
        let capability = Capability {
            major: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            minor: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        };
        if capability < Capability::OLDEST {
            return Err(CudaError::Driver {
                what: format!("a kernel for GPU {ordinal}"),
                why: format!("its compute capability {capability} is below {}", Capability::OLDEST),
            });
        }
        // SAFETY: `device` came from the driver.
        let context =
            driver("cuDevicePrimaryCtxRetain", unsafe { result::primary_ctx::retain(device) })?;
        Ok(Self {
            context: Context(context),
            capability,
            cache: Cache::of_user(),
            modules: Mutex::new(HashMap::new()),
        })
    }

    /// Runs `work` with this GPU's context as the thread's.
    pub(super) fn with_context<T>(
        &self,
        work: impl FnOnce() -> Result<T, CudaError>,
    ) -> Result<T, CudaError> {
        let before = driver("cuCtxGetCurrent", result::ctx::get_current())?;
        if before == Some(self.context.0) {
            return work();
        }
        // SAFETY: a primary context that is never released.
        driver("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.context.0) })?;
        let outcome = work();
        // libtorch takes the thread's context for its current device: leave it as it was.
        // SAFETY: the context that was current a moment ago, or none.
        let restored = unsafe { result::ctx::set_current(before.unwrap_or(std::ptr::null_mut())) };
        driver("cuCtxSetCurrent", restored)?;
        outcome
    }

    /// The kernel `entry` of `program`, compiled and loaded if it is not yet. This GPU's context has to
    /// be the thread's.
    fn kernel(&self, program: Program, entry: &'static CStr) -> Result<Kernel, CudaError> {
        let modules = || self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = modules().get_mut(&program) {
            return loaded.kernel(entry);
        }
        // Compiling takes up to a second: other threads go on, and may even compile the same.
        let image = compile::image(&program, self.capability, &self.cache)?;
        match modules().entry(program) {
            Entry::Occupied(loaded) => loaded.into_mut().kernel(entry),
            Entry::Vacant(place) => {
                // SAFETY: a whole image, made by NVRTC for this GPU; PTX ends in a NUL.
                let handle = unsafe { result::module::load_data(image.as_ptr().cast()) };
                let handle = driver("cuModuleLoadData", handle)?;
                place.insert(Module { handle, kernels: Vec::new() }).kernel(entry)
            }
        }
    }
}

impl Module {
    fn kernel(&mut self, entry: &'static CStr) -> Result<Kernel, CudaError> {
        if let Some((_, kernel)) = self.kernels.iter().find(|(name, _)| *name == entry) {
            return Ok(*kernel);
        }
        // SAFETY: the module is never unloaded.
        let function = unsafe { result::module::get_function(self.handle, entry.to_owned()) };
        let kernel = Kernel(driver("cuModuleGetFunction", function)?);
        self.kernels.push((entry, kernel));
        Ok(kernel)
    }
}

/// A GPU and the stream that kernels are launched on.
#[derive(Clone, Copy)]
pub struct Lane {
    gpu: &'static Gpu,
    stream: sys::CUstream,
}

impl Engine for Lane {
    fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError> {
        let [across, down] = launch.grid();
        if across == 0 || down == 0 {
            return Ok(());
        }
        let mut parameters = [std::ptr::null_mut(); MAX_ARGUMENTS];
        let num_arguments = launch.arguments().len();
        for (parameter, argument) in parameters[..num_arguments].iter_mut().zip(launch.arguments())
        {
            *parameter = argument.as_ptr();
        }
        self.gpu.with_context(|| {
            let kernel = self.gpu.kernel(*launch.program(), launch.entry())?;
            // SAFETY: the kernels' host code passes the parameters that their sources declare, and
            // slices as long as they use; the driver copies the parameters before it returns.
            let launched = unsafe {
                result::launch_kernel(
                    kernel.0,
                    (across, down, 1),
                    (launch.program().threads(), 1, 1),
                    0,
                    self.stream,
                    &mut parameters[..num_arguments],
                )
            };
            driver(format_args!("the launch of {:?}", launch.entry()), launched)
        })
    }
}

impl Machine for Lane {
    fn allocate(&self, num_bytes: usize) -> Result<u64, CudaError> {
        self.gpu.with_context(|| {
            // SAFETY: nothing is read from the memory before it is zeroed.
            let address = driver("cuMemAlloc", unsafe { result::malloc_sync(num_bytes) })?;
            // SAFETY: fresh memory of this length.
            driver("cuMemsetD8", unsafe { result::memset_d8_sync(address, 0, num_bytes) })?;
            // Our stream may be one that does not wait for the default one.
            driver("cuCtxSynchronize", result::ctx::synchronize())?;
            Ok(address)
        })
    }

    unsafe fn free(&self, address: u64, _num_bytes: usize) {
        // SAFETY: the caller's promise. An error of work before it shows at the next call.
        let _ = self.gpu.with_context(|| {
            // SAFETY: as above.
            driver("cuMemFree", unsafe { result::free_sync(address) })
        });
    }

    unsafe fn write(&self, address: u64, bytes: &[u8]) -> Result<(), CudaError> {
        self.gpu.with_context(|| {
            self.wait()?;
            // SAFETY: the caller's promise.
            driver("cuMemcpyHtoD", unsafe { result::memcpy_htod_sync(address, bytes) })?;
            driver("cuCtxSynchronize", result::ctx::synchronize())
        })
    }

    unsafe fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        self.gpu.with_context(|| {
            self.wait()?;
            // SAFETY: the caller's promise.
            driver("cuMemcpyDtoH", unsafe { result::memcpy_dtoh_sync(bytes, address) })
        })
    }
}

impl Lane {
    /// Kernels on `stream`.
    ///
    /// # Errors
    /// As [`Gpu::of`].
    pub fn on(stream: Stream) -> Result<Self, CudaError> {
        Ok(Self { gpu: Gpu::of(stream.ordinal)?, stream: stream.handle })
    }

    fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: streams live as long as the process.
        driver("cuStreamSynchronize", unsafe { result::stream::synchronize(self.stream) })
    }

    /// The mean time of one of `iterations` calls of `work` on this stream, in microseconds, after
    /// `warm_up` calls that are not counted.
    ///
    /// # Errors
    /// If `work` fails, or the driver.
    pub fn time_us(
        &self,
        warm_up: usize,
        iterations: usize,
        mut work: impl FnMut() -> Result<(), CudaError>,
    ) -> Result<f64, CudaError> {
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
        (0..warm_up).try_for_each(|_| work())?;
        let [begin, end] = self.gpu.with_context(|| {
            Ok([driver("cuEventCreate", event())?, driver("cuEventCreate", event())?])
        })?;
        let record = |event| {
            self.gpu.with_context(|| {
                // SAFETY: event and stream are live.
                driver("cuEventRecord", unsafe { result::event::record(event, self.stream) })
            })
        };
        record(begin)?;
        (0..iterations).try_for_each(|_| work())?;
        record(end)?;
        let ms = self.gpu.with_context(|| {
            // SAFETY: both events are live and recorded.
            driver("cuEventSynchronize", unsafe { result::event::synchronize(end) })?;
            // SAFETY: as above.
            driver("cuEventElapsedTime", unsafe { result::event::elapsed(begin, end) })
        })?;
        self.gpu.with_context(|| {
            [begin, end].into_iter().try_for_each(|event| {
                // SAFETY: created above, destroyed once.
                driver("cuEventDestroy", unsafe { result::event::destroy(event) })
            })
        })?;
        Ok(f64::from(ms) * 1e3 / iterations as f64)
    }

    /// Copies between two buffers of the GPU, for comparison: `num_bytes` from `from` to `to`.
    ///
    /// # Errors
    /// If the driver refuses.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn copy(&self, from: Slice<'_, u8>, to: &mut SliceMut<'_, u8>) -> Result<(), CudaError> {
        assert_eq!(from.len(), to.len(), "copy: lengths");
        self.gpu.with_context(|| {
            let (from, to, len) = (from.address(), to.address(), from.len());
            // SAFETY: both slices are live device memory of this length.
            driver("cuMemcpyDtoD", unsafe { result::memcpy_dtod_async(to, from, len, self.stream) })
        })
    }
}
