//! Run-time choice of instruction set for loops the compiler vectorises.
//!
//! A kernel is a value whose `run` is inlined into one copy of [`run`] per instruction set. Every
//! copy performs the same operations in the same order (multiplications and additions are never
//! fused), so results do not depend on the processor. The module knows no kernel.

use multiversion::multiversion;

/// A loop nest with its arguments. `run`, and all it calls in its loops, should be
/// `#[inline(always)]`: a call that is not inlined runs on the baseline instruction set.
pub(crate) trait Kernel {
    /// Does the work.
    fn run(self);
}

/// Runs `kernel` on the widest vectors this processor has.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx2+bmi2+fma",
    "x86_64+avx2+bmi2+fma",
))]
pub(crate) fn run<K: Kernel>(kernel: K) {
    kernel.run();
}

/// Elements worked on together: one AVX-512 register of `f32`.
pub(crate) const LANES: usize = 16;

/// Writes `f` of each element of `from` to `to`, which is as long.
///
/// Made for short slices: whole blocks are loaded before any of their results are stored, which
/// becomes straight vector code without a check for overlap.
#[inline(always)]
pub(crate) fn convert<S: Copy, D>(from: &[S], to: &mut [D], f: impl Fn(S) -> D) {
    let (blocks, rest) = from.as_chunks::<LANES>();
    let (to_blocks, to_rest) = to.as_chunks_mut::<LANES>();
    for (block, to) in blocks.iter().zip(to_blocks) {
        let block = *block;
        *to = std::array::from_fn(|lane| f(block[lane]));
    }
    for (element, to) in rest.iter().zip(to_rest) {
        *to = f(*element);
    }
}
