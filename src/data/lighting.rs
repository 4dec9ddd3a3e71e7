//! The paper's colour augmentation: noise along the principal components of ImageNet's colours.
//!
//! §4.1: to every pixel of an image is added `[p1 p2 p3] [a1 l1, a2 l2, a3 l3]^T`, where `p_k` and
//! `l_k` are eigenvectors and "eigenvalues" of the 3x3 covariance of RGB values and `a_k` is drawn
//! from N(0, 0.1) once per showing of the image. The eigenvalues have the square of the pixels'
//! unit, so the formula means different noise for different units; [`LightingScale`] names the two
//! readings in use. This module knows nothing of pixels: it makes one shift per image.

use serde::{Deserialize, Serialize};

use crate::random::Key;

/// The standard deviation of `a_k` (§4.1).
const ALPHA_STD: f64 = 0.1;

/// The components in falling order of variance, each as (red, green, blue).
const COMPONENTS: [[f64; 3]; 3] =
    [[-0.5635, -0.5762, -0.5920], [-0.7126, -0.0235, 0.7012], [0.4180, -0.8170, 0.3973]];

/// What stands for `l_k`, in grey levels (0 to 255).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LightingScale {
    /// Standard deviations along the components, as the authors' own program of 2012 used.
    #[default]
    Std,
    /// Eigenvalues for pixels in 0 to 1, times 255: Torch's convention, half the shift on the first
    /// component.
    Eig01,
}

impl LightingScale {
    /// `l_1, l_2, l_3` in grey levels.
    #[must_use]
    pub fn grey_levels(self) -> [f64; 3] {
        match self {
            Self::Std => [121.78, 37.09, 19.72],
            Self::Eig01 => [55.46, 4.794, 1.148],
        }
    }

    /// The shift of one image in grey levels, red first; `key` is the image's own stream.
    #[must_use]
    pub fn shift(self, key: Key) -> [f32; 3] {
        let mut shift = [0.0f64; 3];
        for ((k, scale), component) in (0..).zip(self.grey_levels()).zip(COMPONENTS) {
            let amount = ALPHA_STD * key.normal(k) * scale;
            shift.iter_mut().zip(component).for_each(|(channel, p)| *channel += amount * p);
        }
        shift.map(|channel| channel as f32)
    }
}
