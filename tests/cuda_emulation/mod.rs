//! A machine that runs kernels' CUDA text on the CPU, compiled as C++. FFI: loads what it compiled.
//!
//! The host code, the index arithmetic and the formulas are the GPU's own; see `emulation.h` for what
//! this cannot show. Memory lies between guards of 0xff bytes, NaN to whoever reads them.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_uint, c_void};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use alexnet_mgpu::kernels::cuda::{CudaError, Engine, Launch, Machine, Program};
use tempfile::TempDir;

/// Bytes before and after each allocation that nobody may touch.
const GUARD: usize = 256;

/// An emulated launch: blocks across and down, threads, parameters.
type Emulated = unsafe extern "C" fn(c_uint, c_uint, c_uint, *mut *mut c_void);

/// What an emulator does with a launch.
pub(crate) enum Mode {
    /// Notes which programs and kernels are asked for.
    Record,
    /// Runs it, from these libraries.
    Run(HashMap<Program, PathBuf>),
}

/// See the module.
pub(crate) struct Emulator {
    mode: Mode,
    recorded: Mutex<Vec<(Program, &'static CStr)>>,
}

impl Emulator {
    pub(crate) fn new(mode: Mode) -> Self {
        Self { mode, recorded: Mutex::new(Vec::new()) }
    }

    /// The programs asked for so far, each with its kernels.
    pub(crate) fn recorded(&self) -> Vec<(Program, Vec<&'static CStr>)> {
        let mut programs: Vec<(Program, Vec<&CStr>)> = Vec::new();
        for (program, entry) in self.recorded.lock().unwrap_or_else(PoisonError::into_inner).iter()
        {
            match programs.iter_mut().find(|(known, _)| known == program) {
                Some((_, entries)) => entries.push(*entry),
                None => programs.push((*program, vec![*entry])),
            }
        }
        programs.iter_mut().for_each(|(_, entries)| {
            entries.sort();
            entries.dedup();
        });
        programs
    }
}

/// Compiles programs as C++ libraries in a folder, on all cores.
pub(crate) fn compile_all(programs: &[(Program, Vec<&'static CStr>)], folder: &TempDir) -> Mode {
    let next = Mutex::new(programs.iter().enumerate());
    let compiled = Mutex::new(HashMap::new());
    let work = || {
        loop {
            let task = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, (program, entries))) = task else { return };
            let library = folder.path().join(format!("kernel{number}.so"));
            compile(program, entries, &library);
            compiled.lock().expect("no panic with the lock").insert(*program, library);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    Mode::Run(compiled.into_inner().expect("no panic with the lock"))
}

fn compile(program: &Program, entries: &[&CStr], library: &Path) {
    let header = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cuda_emulation/emulation.h");
    let mut text = format!("#include \"{header}\"\n{}", program.text());
    for entry in entries {
        text += &format!("EMULATE({})\n", entry.to_string_lossy());
    }
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
    let mut command = Command::new(&compiler);
    // Contraction is the GPU's choice, per program; the CPU twins never contract.
    command.args([
        "-std=c++17",
        "-O1",
        "-ffp-contract=off",
        "-fno-strict-aliasing",
        // A misaligned vector or an index outside its array ends the process with the line of the kernel.
        "-fsanitize=alignment,bounds-strict",
        "-fno-sanitize-recover=all",
        "-shared",
        "-fPIC",
        "-w",
    ]);
    command.args(program.definitions().iter().map(|definition| format!("-D{definition}")));
    command.args(["-x", "c++", "-", "-o"]).arg(library).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{compiler}: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(text.as_bytes()).expect("the compiler reads");
    drop(stdin);
    let status = child.wait().expect("a child");
    assert!(status.success(), "{compiler} refused {program:?}");
}

/// The function of this name in a library.
fn load(library: &Path, entry: &CStr) -> Emulated {
    let path = CString::new(library.as_os_str().as_encoded_bytes()).expect("no NUL in a path");
    let name = [b"emulate_", entry.to_bytes()].concat();
    let name = CString::new(name).expect("no NUL in a name");
    // SAFETY: opens a library of our own without constructors. It is never closed.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!handle.is_null(), "{} does not load", library.display());
    // SAFETY: the handle is live.
    let symbol = unsafe { libc::dlsym(handle, name.as_ptr()) };
    assert!(!symbol.is_null(), "{name:?} is not in {}", library.display());
    // SAFETY: `EMULATE` defines it with this signature.
    unsafe { std::mem::transmute::<*mut c_void, Emulated>(symbol) }
}

impl Engine for Emulator {
    fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError> {
        let libraries = match &self.mode {
            Mode::Run(libraries) => libraries,
            Mode::Record => {
                let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
                recorded.push((*launch.program(), launch.entry()));
                return Ok(());
            }
        };
        let kernel = load(&libraries[launch.program()], launch.entry());
        let mut values: Vec<_> = launch.arguments().iter().map(|a| a.as_ptr()).collect();
        let [across, down] = launch.grid();
        // SAFETY: the kernels' host code passes the parameters that their sources declare, and
        // slices of this machine's memory as long as they use.
        unsafe { kernel(across, down, launch.program().threads(), values.as_mut_ptr()) };
        Ok(())
    }
}

fn layout(num_bytes: usize) -> Layout {
    Layout::from_size_align(num_bytes + 2 * GUARD, 256).expect("small")
}

impl Machine for Emulator {
    fn allocate(&self, num_bytes: usize) -> Result<u64, CudaError> {
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc(layout(num_bytes)) };
        assert!(!start.is_null(), "out of memory");
        // SAFETY: the whole allocation, then the part between the guards.
        unsafe {
            start.write_bytes(0xff, num_bytes + 2 * GUARD);
            start.add(GUARD).write_bytes(0, num_bytes);
        }
        Ok(start as u64 + GUARD as u64)
    }

    unsafe fn free(&self, address: u64, num_bytes: usize) {
        let start = (address as usize - GUARD) as *mut u8;
        // SAFETY: the caller's promise: the allocation of `allocate`, whose bytes are initialised.
        let whole = unsafe { std::slice::from_raw_parts(start, num_bytes + 2 * GUARD) };
        let intact = [&whole[..GUARD], &whole[GUARD + num_bytes..]].concat();
        let intact = intact.iter().all(|byte| *byte == 0xff);
        // SAFETY: as above, freed once.
        unsafe { dealloc(start, layout(num_bytes)) };
        assert!(intact || std::thread::panicking(), "a kernel wrote beyond its arrays");
    }

    unsafe fn write(&self, address: u64, bytes: &[u8]) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        Ok(())
    }

    unsafe fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }
}
