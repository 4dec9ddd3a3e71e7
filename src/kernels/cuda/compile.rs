//! From a program's text to an image for one GPU architecture. FFI: the only file that calls NVRTC.
//!
//! NVRTC is opened at run time, beside libtorch or on the loader's path. The file knows no GPU: it
//! compiles for any, anywhere.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char};
use std::sync::OnceLock;

use cudarc::nvrtc::{result, sys};

use super::cache::Cache;
use super::error::CudaError;
use super::program::Program;

/// A compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability {
    /// 9 of 9.0.
    pub major: u32,
    /// 0 of 9.0.
    pub minor: u32,
}

impl Capability {
    /// The first with bfloat16 conversions.
    pub const OLDEST: Self = Self { major: 8, minor: 0 };

    fn number(self) -> i32 {
        (self.major * 10 + self.minor) as i32
    }
}

impl std::fmt::Display for Capability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Whether NVRTC is there, as an error if not.
///
/// # Errors
/// [`CudaError::Missing`].
pub fn available() -> Result<(), CudaError> {
    static MISSING: OnceLock<Option<&str>> = OnceLock::new();
    match *MISSING.get_or_init(missing) {
        None => Ok(()),
        Some(library) => Err(CudaError::Missing {
            library,
            advice: "run scripts/get-libtorch, which puts it beside libtorch",
        }),
    }
}

/// The first of the two libraries that cannot be opened.
fn missing() -> Option<&'static str> {
    // SAFETY: opens the library, whose constructors have no preconditions.
    if !unsafe { sys::is_culib_present() } {
        return Some("libnvrtc.so.13");
    }
    (!open_builtins()).then_some("libnvrtc-builtins.so.13")
}

/// Opens the library NVRTC will look for, which it would not look for in this program's folders.
fn open_builtins() -> bool {
    let Ok((major, minor)) = version() else { return false };
    tracing::debug!("kernels are compiled by NVRTC {major}.{minor}");
    let Ok(name) = CString::new(format!("libnvrtc-builtins.so.{major}.{minor}")) else {
        return false;
    };
    // SAFETY: opens the library, whose constructors have no preconditions; it is never closed.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    !handle.is_null()
}

/// The image of `program` for GPUs of `capability`, from `cache` or compiled now.
///
/// # Errors
/// If NVRTC is missing or refuses the program.
pub fn image(
    program: &Program,
    capability: Capability,
    cache: &Cache,
) -> Result<Vec<u8>, CudaError> {
    available()?;
    let target = target(capability)?;
    let (major, minor) = version()?;
    let options = program.options();
    let text = program.text();
    let key = format!("NVRTC {major}.{minor} {target} {options:?}\n{text}");
    cache.get_or_make(program.source().name(), &key, || compile(program, &text, &target, &options))
}

/// The target's name: machine code if this NVRTC knows the GPU, else code for the newest it knows
/// that the GPU understands, which the driver finishes.
fn target(capability: Capability) -> Result<String, CudaError> {
    let mut num = 0;
    // SAFETY: writes one integer.
    check("nvrtcGetNumSupportedArchs", unsafe { sys::nvrtcGetNumSupportedArchs(&raw mut num) })?;
    let mut known = vec![0; num.max(0) as usize];
    // SAFETY: writes as many integers as it said there are.
    check("nvrtcGetSupportedArchs", unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) })?;
    let number = capability.number();
    if known.contains(&number) {
        return Ok(format!("sm_{number}"));
    }
    match known.iter().filter(|&&known| known < number).max() {
        Some(nearest) => Ok(format!("compute_{nearest}")),
        None => Err(CudaError::Compile {
            program: "anything".to_owned(),
            target: format!("sm_{number}"),
            log: format!("this NVRTC begins at sm_{}", known.iter().min().unwrap_or(&0)),
        }),
    }
}

fn version() -> Result<(i32, i32), CudaError> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: writes two integers.
    check("nvrtcVersion", unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) })?;
    Ok((major, minor))
}

fn check(what: &str, code: sys::nvrtcResult) -> Result<(), CudaError> {
    code.result()
        .map_err(|error| CudaError::Driver { what: what.to_owned(), why: error.to_string() })
}

/// An NVRTC program, destroyed when it is dropped.
struct Compilation(sys::nvrtcProgram);

impl Drop for Compilation {
    fn drop(&mut self) {
        // SAFETY: created in `compile`, destroyed once. A failure would only leak it.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

fn compile(
    program: &Program,
    text: &str,
    target: &str,
    options: &[String],
) -> Result<Vec<u8>, CudaError> {
    let failed = |log: String| CudaError::Compile {
        program: format!("{program:?}"),
        target: target.to_owned(),
        log,
    };
    let text = CString::new(text).map_err(|error| failed(error.to_string()))?;
    let name = CString::new(format!("{}.cu", program.source().name()))
        .map_err(|error| failed(error.to_string()))?;
    let created = result::create_program(&text, Some(&name));
    let compilation = Compilation(created.map_err(|error| failed(error.to_string()))?);
    let mut options = options.to_vec();
    options.push(format!("--gpu-architecture={target}"));
    // SAFETY: the program is live, and `text` and `name` outlive it.
    if let Err(error) = unsafe { result::compile_program(compilation.0, &options) } {
        // SAFETY: the program is live.
        let log = unsafe { result::get_program_log(compilation.0) };
        // SAFETY: NVRTC's log ends in a NUL.
        let log = log.map(|log| log.iter().map(|&c| c as u8 as char).collect::<String>());
        let log = log.unwrap_or_default();
        return Err(failed(format!("{error}\n{}", log.trim_end_matches(['\0', '\n']))));
    }
    if target.starts_with("sm_") { cubin(&compilation) } else { ptx(&compilation) }
}

fn cubin(compilation: &Compilation) -> Result<Vec<u8>, CudaError> {
    let mut len = 0;
    // SAFETY: the program is compiled; writes one integer.
    check("nvrtcGetCUBINSize", unsafe { sys::nvrtcGetCUBINSize(compilation.0, &raw mut len) })?;
    let mut image = vec![0u8; len];
    let to = image.as_mut_ptr().cast::<c_char>();
    // SAFETY: writes as many bytes as it said there are.
    check("nvrtcGetCUBIN", unsafe { sys::nvrtcGetCUBIN(compilation.0, to) })?;
    Ok(image)
}

fn ptx(compilation: &Compilation) -> Result<Vec<u8>, CudaError> {
    // SAFETY: the program is compiled.
    let ptx = unsafe { result::get_ptx(compilation.0) };
    let ptx = ptx.map_err(|error| CudaError::Driver {
        what: "nvrtcGetPTX".to_owned(),
        why: error.to_string(),
    })?;
    Ok(ptx.into_iter().map(|c| c as u8).collect())
}
