//! A kernel with its grid and arguments, and what can run it.

use std::ffi::CStr;

use super::error::CudaError;
use super::memory::Argument;
use super::program::Program;

/// One launch. Only the kernels of this module tree make any, with arguments they have checked.
#[derive(Debug)]
pub struct Launch<'a> {
    program: Program,
    entry: &'static CStr,
    grid: [u32; 2],
    arguments: &'a [Argument<'a>],
}

impl<'a> Launch<'a> {
    /// The kernel `entry` of `program` in as many blocks as hold `num_threads` threads.
    ///
    /// # Panics
    /// If there are more threads than a 32-bit index can number.
    pub(super) fn over(
        num_threads: usize,
        program: Program,
        entry: &'static CStr,
        arguments: &'a [Argument<'a>],
    ) -> Self {
        let threads = program.threads();
        let padded = num_threads.next_multiple_of(threads as usize);
        let padded = u32::try_from(padded).unwrap_or_else(|_| {
            panic!("{num_threads} threads do not fit one launch; use a smaller batch")
        });
        Self::of_blocks([padded / threads, 1], program, entry, arguments)
    }

    /// The kernel `entry` of `program` in these blocks, across and down.
    pub(super) fn of_blocks(
        grid: [u32; 2],
        program: Program,
        entry: &'static CStr,
        arguments: &'a [Argument<'a>],
    ) -> Self {
        Self { program, entry, grid, arguments }
    }

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
