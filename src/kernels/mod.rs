//! The kernels of what libtorch does slowly, on plain slices in channels-last order: for the CPU
//! here, and beside them for GPUs in [`cuda`].
//!
//! Each kernel reads its inputs once, writes its outputs once and keeps whatever lies between in a
//! cache-sized scratch. What takes long is shared among the threads of the current rayon pool, and no
//! result depends on how many there are, nor on the instruction set they run on. The module knows nothing
//! of tensors, layers or devices.

pub mod bias;
pub mod cuda;
pub mod dropout;
pub mod finish;
pub mod fold;
pub mod lrn;
mod normaliser;
pub mod pool;
pub mod real;
pub mod relu_lrn_pool;
pub(crate) mod shuffle;
pub(crate) mod simd;
pub mod stacks;
pub(crate) mod stream;
pub mod sum;
pub mod update;
