//! What can go wrong between a kernel's source and its launch.

/// A kernel that cannot be compiled or run.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CudaError {
    /// A library that is opened at run time is not there.
    #[error("{library} was not found; {advice}")]
    Missing {
        /// Its name.
        library: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// NVRTC refused a program.
    #[error("NVRTC could not compile {program} for {target}: {log}")]
    Compile {
        /// The program's name.
        program: String,
        /// The architecture.
        target: String,
        /// The compiler's own words.
        log: String,
    },
    /// The driver, or what stands for it, refused a call.
    #[error("{what} failed: {why}")]
    Driver {
        /// The call.
        what: String,
        /// The driver's own words.
        why: String,
    },
    /// An array does not begin where its vectors can be read.
    #[error(
        "an array for a kernel begins at {address:#x}, which is no multiple of {multiple} bytes"
    )]
    Misaligned {
        /// Where it begins.
        address: u64,
        /// Where it would have to.
        multiple: u64,
    },
    /// A run of parameters does not begin where a vector does.
    #[error(
        "a run of parameters begins at element {element} of an array, which is no multiple of \
         {multiple}; give parameters aligned places in the arena"
    )]
    MisalignedRun {
        /// Its first element, in one of the arrays.
        element: usize,
        /// The elements of a vector.
        multiple: usize,
    },
}
