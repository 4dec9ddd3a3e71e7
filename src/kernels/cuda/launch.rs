//! A kernel with its grid and arguments, and what can run it.

use std::ffi::CStr;

use super::error::CudaError;
use super::memory::Argument;
use super::program::Program;

/// One launch. Only the kernels of this module tree make any, with arguments they have checked.
#[derive(Debug)]
pub struct Launch<'a> {
    pub(super) program: Program,
    pub(super) entry: &'static CStr,
    pub(super) grid: [u32; 2],
    pub(super) threads: u32,
    pub(super) arguments: &'a [Argument<'a>],
}

impl Launch<'_> {
    /// What is compiled.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The name of the kernel in it.
    #[must_use]
    pub fn entry(&self) -> &'static CStr {
        self.entry
    }

    /// Blocks, across and down.
    #[must_use]
    pub fn grid(&self) -> [u32; 2] {
        self.grid
    }

    /// Threads of a block.
    #[must_use]
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// The parameters in order.
    #[must_use]
    pub fn arguments(&self) -> &[Argument<'_>] {
        self.arguments
    }
}

/// What runs kernels, one after another in the order they are launched.
pub trait Engine {
    /// Starts a kernel. It may run after this returns.
    ///
    /// # Errors
    /// If it cannot be compiled or started.
    fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError>;
}

/// The blocks of `threads` that `num_threads` fill.
///
/// # Panics
/// If there are more threads than a 32-bit index can number.
pub(super) fn blocks(num_threads: usize, threads: u32) -> u32 {
    u32::try_from(num_threads.next_multiple_of(threads as usize)).unwrap_or_else(|_| {
        panic!("{num_threads} threads do not fit one launch; use a smaller batch")
    }) / threads
}
