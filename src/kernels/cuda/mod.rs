//! The CUDA kernels, each beside its CPU twin, compiled for the GPU at hand when they are first needed.
//!
//! No CUDA toolkit is needed to build the program: sources lie in it as text, NVRTC compiles them
//! with the shapes of the network as constants, and the result is kept on disk. A kernel is a safe
//! function of slices of device memory that checks their lengths, as its twin does of slices of host
//! memory. The module knows nothing of tensors or layers; what runs a kernel is an [`Engine`], a
//! GPU or an emulator, so the same host code and the same checks serve both.

pub mod bias;
pub mod cache;
pub mod check;
pub mod compile;
pub mod cross_entropy;
pub mod dropout;
pub mod error;
pub mod finish;
pub mod fold;
pub mod gpu;
pub mod launch;
pub mod lrn;
pub mod machine;
pub mod memory;
pub mod pinned;
pub mod program;
pub mod relu_lrn_pool;
pub mod update;

pub use error::CudaError;
pub use launch::{Engine, Launch};
pub use machine::{Buffer, Machine};
pub use memory::{Slice, SliceMut};
pub use program::Program;
