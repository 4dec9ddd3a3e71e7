//! Softmax cross-entropy and its gradient on the GPU, in one launch: `cross_entropy.cu`.
//!
//! The CPU's is made of libtorch's operations, in `net/loss.rs`; this one reads the logits from
//! memory once.

use super::error::CudaError;
use super::launch::{Engine, Launch};
use super::memory::{Slice, SliceMut, argument};
use super::program::{CudaReal, Program, Source};
use crate::kernels::real::{Real, Wide};

/// The cross-entropy of each row of `logits`, [rows, classes], against `labels`, and the gradient of
/// their sum, all times `scale`. A label that is no class has the loss NaN.
///
/// # Errors
/// If the kernel cannot be compiled or started.
///
/// # Panics
/// If the lengths do not match.
pub fn cross_entropy<T: CudaReal>(
    on: &dyn Engine,
    logits: Slice<'_, T>,
    labels: Slice<'_, i64>,
    dlogits: &mut SliceMut<'_, T>,
    losses: &mut SliceMut<'_, T::Wide>,
    scale: f64,
) -> Result<(), CudaError> {
    let rows = labels.len();
    assert_eq!(losses.len(), rows, "cross-entropy: a loss for each of {rows} rows");
    assert_eq!(logits.len(), dlogits.len(), "cross-entropy: the gradient has the logits' shape");
    if rows == 0 {
        return Ok(());
    }
    assert!(
        !logits.is_empty() && logits.len().is_multiple_of(rows),
        "cross-entropy: {} logits are not {rows} rows",
        logits.len()
    );
    on.launch(&Launch::of_blocks(
        [rows as u32, 1],
        Program::new::<T>(Source::CrossEntropy, &[]),
        c"cross_entropy",
        &[
            logits.argument(),
            labels.argument(),
            dlogits.argument(),
            losses.argument(),
            argument(&((logits.len() / rows) as u32)),
            argument(&<T as Real>::Wide::from_f64(scale)),
        ],
    ))
}
