//! What matrix products and convolutions are computed in.
//!
//! Without instructions for bf16, libtorch has to imitate them on a CPU, and on those without AVX-512 it
//! multiplies number by number, many times slower than floats. There operands are widened to fp32 and
//! results are rounded once, which is what the instructions do; sums, in another order, may differ in
//! their last bits. Layers are not known here.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use crate::torch_ext::{self, Products};

/// The tensor as its products are computed from it: itself, or what it is in fp32.
pub(super) fn operand(x: &Tensor) -> Result<Tensor> {
    let is_slow = x.kind() == Kind::BFloat16 && x.device() == Device::Cpu && !multiplies_bf16();
    Ok(if is_slow { x.f_to_kind(Kind::Float)? } else { x.shallow_clone() })
}

/// Whether these are 32-bit floats of which GPUs multiply every bit, as tensor cores do not.
pub(super) fn is_full_fp32(kind: Kind) -> bool {
    kind == Kind::Float && torch_ext::products() == Products::Exact
}

#[cfg(target_arch = "x86_64")]
fn multiplies_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

/// Not known of other processors: the choice is left to libtorch.
#[cfg(not(target_arch = "x86_64"))]
fn multiplies_bf16() -> bool {
    true
}
