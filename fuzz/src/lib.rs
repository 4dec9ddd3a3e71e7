//! The image pipeline of the program, with its entry points for hostile bytes.

#[path = "../../src/cancel.rs"]
pub mod cancel;
#[path = "../../src/data/mod.rs"]
pub mod data;
/// The kernels that the image pipeline uses.
pub mod kernels {
    #[path = "../../../src/kernels/real.rs"]
    pub mod real;
    #[path = "../../../src/kernels/shuffle.rs"]
    pub(crate) mod shuffle;
    #[path = "../../../src/kernels/simd.rs"]
    pub(crate) mod simd;
    #[path = "../../../src/kernels/stream.rs"]
    pub(crate) mod stream;
}
#[path = "../../src/random.rs"]
pub mod random;
