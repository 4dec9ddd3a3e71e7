//! The kernels that the image pipeline uses; the others need more than it.

#[path = "../../src/kernels/real.rs"]
pub mod real;
#[path = "../../src/kernels/shuffle.rs"]
pub(crate) mod shuffle;
#[path = "../../src/kernels/simd.rs"]
pub(crate) mod simd;
#[path = "../../src/kernels/stream.rs"]
pub(crate) mod stream;
