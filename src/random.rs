//! Every random number of the program, as a pure function of where it is used.
//!
//! A draw is a hash of (seed, purpose, coordinates): no generator has state, so nothing has to be
//! saved to resume, and the number of devices, workers or threads cannot change a result. The module
//! knows nothing of what the numbers are for beyond the names in [`Purpose`].

/// What a stream of numbers is used for. Streams of different purposes begin at unrelated places among 2^64, and
/// overlap by chance only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Initial weights; coordinates: parameter name, canonical element index.
    Init = 1,
    /// The order of samples in an epoch.
    Order = 2,
    /// The position of a random crop.
    Crop = 3,
    /// Horizontal reflection.
    Flip = 4,
    /// PCA lighting.
    Lighting = 5,
    /// Dropout masks; coordinates: step, layer, position in the global batch, unit.
    Dropout = 6,
    /// The generated image set.
    Generate = 7,
}

/// A point in the space of streams. Narrow it with [`Key::with`], then draw by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

/// The increment of SplitMix64 (Steele, Lea, Flood 2014): 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output mix of SplitMix64, a bijection on 64-bit words.
#[inline(always)]
const fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Key {
    /// The stream of `purpose` in a run with this seed.
    #[must_use]
    pub const fn new(seed: u64, purpose: Purpose) -> Self {
        Self(mix(mix(seed.wrapping_add(GOLDEN)) ^ (purpose as u64).wrapping_mul(GOLDEN)))
    }

    /// The sub-stream at one more coordinate (an epoch, a sample, a layer).
    #[must_use]
    #[inline]
    pub const fn with(self, coordinate: u64) -> Self {
        Self(mix(self.0 ^ mix(coordinate.wrapping_add(GOLDEN))))
    }

    /// The state, for kernels that draw on another processor.
    #[must_use]
    pub(crate) const fn word(self) -> u64 {
        self.0
    }

    /// The sub-stream of a name, for instance a layer's.
    #[must_use]
    pub fn with_name(self, name: &str) -> Self {
        name.bytes().fold(self.with(name.len() as u64), |key, byte| key.with(u64::from(byte)))
    }

    /// 64 uniform bits at `index`.
    #[must_use]
    #[inline(always)]
    pub const fn bits(self, index: u64) -> u64 {
        mix(self.0.wrapping_add(index.wrapping_mul(GOLDEN)))
    }

    /// Uniform in [0, 1), with 53 random bits.
    #[must_use]
    #[inline]
    pub fn uniform(self, index: u64) -> f64 {
        (self.bits(index) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in 0..n, by multiplication; the bias is below n / 2^64.
    ///
    /// # Panics
    /// If `n` is zero.
    #[must_use]
    #[inline]
    pub fn below(self, index: u64, n: u64) -> u64 {
        assert!(n > 0, "a draw from an empty range");
        ((u128::from(self.bits(index)) * u128::from(n)) >> 64) as u64
    }

    /// Standard normal, by Box and Muller's cosine branch on the bits at `2 index` and `2 index + 1`.
    #[must_use]
    #[inline]
    pub fn normal(self, index: u64) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform(2 * index)).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform(2 * index + 1)).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_the_seed_the_purpose_and_every_coordinate() {
        let base = Key::new(1, Purpose::Crop).with(2).with(3).bits(4);
        assert_eq!(base, Key::new(1, Purpose::Crop).with(2).with(3).bits(4));
        assert_ne!(base, Key::new(2, Purpose::Crop).with(2).with(3).bits(4));
        assert_ne!(base, Key::new(1, Purpose::Flip).with(2).with(3).bits(4));
        assert_ne!(base, Key::new(1, Purpose::Crop).with(3).with(2).bits(4));
        assert_ne!(base, Key::new(1, Purpose::Crop).with(2).with(3).bits(5));
    }

    #[test]
    fn moments_are_those_of_the_distributions_named() {
        let key = Key::new(7, Purpose::Init);
        let n = 200_000;
        let mean = |f: &dyn Fn(u64) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
        assert!((mean(&|i| key.uniform(i)) - 0.5).abs() < 3e-3);
        assert!(mean(&|i| key.normal(i)).abs() < 1e-2);
        assert!((mean(&|i| key.normal(i).powi(2)) - 1.0).abs() < 2e-2);
        assert!((mean(&|i| key.below(i, 10) as f64) - 4.5).abs() < 3e-2);
    }

    #[test]
    fn a_draw_below_n_reaches_every_value_and_never_n() {
        let key = Key::new(3, Purpose::Order);
        let mut seen = [false; 7];
        (0..1000).for_each(|i| seen[key.below(i, 7) as usize] = true);
        assert_eq!(seen, [true; 7]);
    }
}
