//! Sums over pixels from which mean, covariance and principal colours follow.
//!
//! The sums are whole numbers, so they do not depend on the order of images, the number of threads
//! or how a set is cut into parts: parts add up to the whole without rounding. The module does not
//! know which pixels it is shown.

use serde::{Deserialize, Serialize};

use crate::kernels::simd::{self, Kernel, LANES};

/// The first two moments of RGB pixels, in grey levels (0 to 255).
///
/// 64 bits hold the sums of 2.8e14 pixels: four thousand million images of 256 x 256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moments {
    /// Pixels.
    pub num_pixels: u64,
    /// Sums of red, green and blue.
    pub sums: [u64; 3],
    /// Sums of red², red green, red blue, green², green blue, blue².
    pub products: [u64; 6],
}

/// What [`Moments`] say about the colours of a set, in grey levels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColourStatistics {
    /// Red, green, blue.
    pub mean: [f64; 3],
    /// The standard deviation of each channel over all pixels.
    pub std: [f64; 3],
    /// The covariance of the channels over all pixels.
    pub covariance: [[f64; 3]; 3],
    /// The principal components of the covariance in falling order of variance, each a unit vector
    /// (red, green, blue) whose largest entry is positive.
    pub components: [[f64; 3]; 3],
    /// The standard deviation along each component.
    pub component_std: [f64; 3],
}

/// Where the products of two channels stand.
const PLACE: [[usize; 3]; 3] = [[0, 1, 2], [1, 3, 4], [2, 4, 5]];

/// Pixels whose products are summed in 32 bits: 65536 * 255² is below 2³².
const BLOCK_PIXELS: usize = 1 << 16;

impl Moments {
    /// The moments of interleaved RGB.
    #[must_use]
    pub fn of(pixels: &[u8]) -> Self {
        let mut moments = Self::default();
        simd::run(Sum { pixels, to: &mut moments });
        moments
    }

    /// Adds the moments of other pixels.
    ///
    /// # Errors
    /// If a sum exceeds 64 bits, which no set of images reaches: the numbers come from a damaged
    /// file.
    pub fn add(&mut self, other: &Self) -> Result<(), Overflow> {
        let add = |to: &mut u64, from: u64| {
            *to = to.checked_add(from).ok_or(Overflow)?;
            Ok(())
        };
        add(&mut self.num_pixels, other.num_pixels)?;
        self.sums.iter_mut().zip(other.sums).try_for_each(|(to, from)| add(to, from))?;
        self.products.iter_mut().zip(other.products).try_for_each(|(to, from)| add(to, from))
    }

    /// Whether the sums can be those of pixels: `Σx ≤ 255 n`, `Σxy ≤ 255 Σx`, `(Σx)² ≤ n Σx²`. Others
    /// come from a damaged file.
    #[must_use]
    pub fn are_of_pixels(&self) -> bool {
        let n = u128::from(self.num_pixels);
        let sums = self.sums.map(u128::from);
        let of_levels = sums.iter().all(|&sum| sum <= 255 * n);
        let mut products = PLACE.into_iter().zip(sums).flat_map(|(places, sum)| {
            places.into_iter().zip(sums).map(move |(place, other)| (place, sum, other))
        });
        of_levels
            && products.all(|(place, sum, other)| self.product(place) <= 255 * sum.min(other))
            && [0, 1, 2].into_iter().all(|i| sums[i] * sums[i] <= n * self.product(PLACE[i][i]))
    }

    fn product(&self, place: usize) -> u128 {
        u128::from(self.products[place])
    }

    /// Mean, covariance and components; `None` without pixels.
    #[must_use]
    pub fn statistics(&self) -> Option<ColourStatistics> {
        if self.num_pixels == 0 {
            return None;
        }
        let n = self.num_pixels as f64;
        let covariance = [0, 1, 2].map(|i| [0, 1, 2].map(|j| self.covariance(i, j)));
        let (variances, components) = eigen(covariance);
        Some(ColourStatistics {
            mean: self.sums.map(|sum| sum as f64 / n),
            std: [0, 1, 2].map(|i| covariance[i][i].max(0.0).sqrt()),
            covariance,
            components,
            component_std: variances.map(|variance| variance.max(0.0).sqrt()),
        })
    }

    /// `(n Σxy - Σx Σy) / n²`; the numerator, in which digits cancel, is exact.
    fn covariance(&self, i: usize, j: usize) -> f64 {
        let n = u128::from(self.num_pixels);
        let of_products = n * self.product(PLACE[i][j]);
        let of_sums = u128::from(self.sums[i]) * u128::from(self.sums[j]);
        let magnitude = of_products.abs_diff(of_sums) as f64 / (n as f64 * n as f64);
        if of_products >= of_sums { magnitude } else { -magnitude }
    }
}

/// A sum that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sums over pixels exceed 64 bits")]
pub struct Overflow;

struct Sum<'a> {
    pixels: &'a [u8],
    to: &'a mut Moments,
}

impl Kernel for Sum<'_> {
    #[inline(always)]
    fn run(self) {
        for block in self.pixels.chunks(3 * BLOCK_PIXELS) {
            let mut sums = [[0u32; LANES]; 9];
            let (groups, rest) = block.as_chunks::<{ 3 * LANES }>();
            for group in groups {
                for lane in 0..LANES {
                    add_pixel(&mut sums, lane, [0, 1, 2].map(|c| group[3 * lane + c]));
                }
            }
            for pixel in rest.as_chunks::<3>().0 {
                add_pixel(&mut sums, 0, *pixel);
            }
            let total = sums.map(|lanes| lanes.iter().map(|&sum| u64::from(sum)).sum::<u64>());
            self.to.num_pixels += block.len() as u64 / 3;
            self.to.sums.iter_mut().zip(&total[..3]).for_each(|(to, sum)| *to += sum);
            self.to.products.iter_mut().zip(&total[3..]).for_each(|(to, sum)| *to += sum);
        }
    }
}

#[inline(always)]
fn add_pixel(sums: &mut [[u32; LANES]; 9], lane: usize, pixel: [u8; 3]) {
    let [r, g, b] = pixel.map(u32::from);
    for (sum, value) in sums.iter_mut().zip([r, g, b, r * r, r * g, r * b, g * g, g * b, b * b]) {
        sum[lane] += value;
    }
}

/// Eigenvalues in falling order and their vectors, by Jacobi's rotations, which for three rows
/// converge to the last digit within a few sweeps.
fn eigen(mut a: [[f64; 3]; 3]) -> ([f64; 3], [[f64; 3]; 3]) {
    const SWEEPS: usize = 16;
    // Row `k` becomes the vector of `a[k][k]`.
    let mut vectors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    for (p, q) in [(0, 1), (0, 2), (1, 2)].into_iter().cycle().take(3 * SWEEPS) {
        if a[p][q] == 0.0 {
            continue;
        }
        let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
        let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
        let c = 1.0 / t.hypot(1.0);
        let s = t * c;
        for row in &mut a {
            (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
        }
        for k in 0..3 {
            (a[p][k], a[q][k]) = (c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]);
            (vectors[p][k], vectors[q][k]) =
                (c * vectors[p][k] - s * vectors[q][k], s * vectors[p][k] + c * vectors[q][k]);
        }
    }
    let mut order = [0, 1, 2];
    order.sort_by(|&i, &j| a[j][j].total_cmp(&a[i][i]));
    (order.map(|i| a[i][i]), order.map(|i| with_largest_positive(vectors[i])))
}

/// A vector and its opposite span the same axis; one of the two is chosen.
fn with_largest_positive(vector: [f64; 3]) -> [f64; 3] {
    let largest = vector.into_iter().fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
    if largest < 0.0 { vector.map(|entry| -entry) } else { vector }
}
