//! The element types of the kernels and the types they compute in.
//!
//! The conversions of bfloat16 are written as integer arithmetic without branches, so that loops
//! over them vectorise on any target. Nothing here knows what is computed.

use half::bf16;
use std::ops::{Add, Div, Mul, Sub};

/// A type kernels read and write: `f64`, `f32` or `bf16`.
pub trait Real: Copy + Send + Sync + 'static {
    /// The type sums of such elements are kept in.
    type Wide: Wide;
    /// The zero of the type.
    const ZERO: Self;
    /// This value in the wider type, exactly.
    fn widen(self) -> Self::Wide;
    /// The nearest value to `wide`, ties to even; NaN stays NaN.
    fn narrow(wide: Self::Wide) -> Self;
}

/// A type kernels compute in: `f64` or `f32`.
pub trait Wide:
    Real<Wide = Self>
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
{
    /// The nearest value to `value`.
    fn from_f64(value: f64) -> Self;
    /// Whether this is not a number.
    fn is_nan(self) -> bool;
    /// The square root.
    fn sqrt(self) -> Self;
    /// The nearest `bf16` (from `f64`, to the nearest `f32` first).
    fn to_bf16(self) -> bf16;
    /// This value to the power `exponent`.
    fn powf(self, exponent: Self) -> Self;
    /// This positive value to the power -1/4, within a few units in the last place; 0 at infinity
    /// and NaN at NaN.
    fn inverse_fourth_root(self) -> Self;
}

macro_rules! wide {
    ($float:ty, $inverse_fourth_root:path) => {
        impl Real for $float {
            type Wide = Self;
            const ZERO: Self = 0.0;
            #[inline(always)]
            fn widen(self) -> Self {
                self
            }
            #[inline(always)]
            fn narrow(wide: Self) -> Self {
                wide
            }
        }

        impl Wide for $float {
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as Self
            }
            #[inline(always)]
            fn is_nan(self) -> bool {
                <$float>::is_nan(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                <$float>::sqrt(self)
            }
            #[inline(always)]
            fn to_bf16(self) -> bf16 {
                bf16::narrow(self as f32)
            }
            #[inline(always)]
            fn powf(self, exponent: Self) -> Self {
                <$float>::powf(self, exponent)
            }
            #[inline(always)]
            fn inverse_fourth_root(self) -> Self {
                $inverse_fourth_root(self)
            }
        }
    };
}

wide!(f32, newton_inverse_fourth_root);
wide!(f64, exact_inverse_fourth_root);

#[inline(always)]
fn exact_inverse_fourth_root(d: f64) -> f64 {
    d.sqrt().sqrt().recip()
}

/// Newton's iteration for y^-4 = d from a first guess in the exponent's bits: three steps take its
/// few per cent to rounding error, in a third of the time of two square roots and a division.
#[inline(always)]
fn newton_inverse_fourth_root(d: f32) -> f32 {
    /// 5/4 of the bits of 1.0, less a correction that centres the error of the guess.
    const GUESS: u32 = 0x4f58_cb00;
    let quarter = 0.25 * d;
    let mut y = f32::from_bits(GUESS - (d.to_bits() >> 2));
    for _ in 0..3 {
        let y2 = y * y;
        y *= 1.25 - quarter * y2 * y2;
    }
    if d == f32::INFINITY { 0.0 } else { y }
}

impl Real for bf16 {
    type Wide = f32;
    const ZERO: Self = bf16::ZERO;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn narrow(wide: f32) -> Self {
        let bits = wide.to_bits();
        let to_nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        let quiet_nan = bits | 0x0040_0000;
        let chosen = if wide.is_nan() { quiet_nan } else { to_nearest };
        bf16::from_bits((chosen >> 16) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_widens_every_bit_pattern_exactly() {
        for bits in 0..=u16::MAX {
            let x = bf16::from_bits(bits);
            assert_eq!(Real::widen(x).to_bits(), u32::from(bits) << 16);
        }
    }

    #[test]
    fn bf16_narrows_to_nearest_even_and_keeps_nan() {
        let samples = (0..1u32 << 22).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9)));
        let edges = [0.0, -0.0, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.003_906_2];
        for x in samples.chain(edges) {
            assert_eq!(<bf16 as Real>::narrow(x).to_bits(), bf16::from_f32(x).to_bits(), "{x:e}");
        }
    }

    #[test]
    fn inverse_fourth_root_is_within_three_units_in_the_last_place_of_every_scale() {
        let mut worst = 0.0f64;
        for step in 0..1u32 << 20 {
            let d = f32::from_bits(0x0080_0000 + step * (0x7f00_0000 >> 20) + (step & 63));
            let exact = f64::from(d).powf(-0.25);
            let error = (f64::from(d.inverse_fourth_root()) / exact - 1.0).abs();
            worst = worst.max(error);
        }
        assert!(worst < 3.0 * f64::from(f32::EPSILON), "{worst:e}");
    }

    #[test]
    fn inverse_fourth_root_is_zero_at_infinity_and_nan_at_nan() {
        assert_eq!(f32::INFINITY.inverse_fourth_root(), 0.0);
        assert_eq!(f64::INFINITY.inverse_fourth_root(), 0.0);
        assert!(f32::NAN.inverse_fourth_root().is_nan());
        assert!(f64::NAN.inverse_fourth_root().is_nan());
    }
}
