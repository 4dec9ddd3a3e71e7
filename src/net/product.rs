//! What matrix products and convolutions are computed in.
//!
//! Without instructions for bf16, a CPU multiplies such numbers in libtorch one by one, many times slower
//! than floats. There operands are widened to fp32 and results are rounded once, which is also what those
//! instructions do; sums, in another order, may differ in their last bits. Layers are not known here.

use std::sync::OnceLock;

use anyhow::Result;
use tch::{Device, Kind, Tensor};

/// The tensor as its products are computed from it: itself, or what it is in fp32.
pub(super) fn operand(x: &Tensor) -> Result<Tensor> {
    let is_slow = x.kind() == Kind::BFloat16 && x.device() == Device::Cpu && !multiplies_bf16();
    Ok(if is_slow { x.f_to_kind(Kind::Float)? } else { x.shallow_clone() })
}

fn multiplies_bf16() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        return is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        true
    })
}
