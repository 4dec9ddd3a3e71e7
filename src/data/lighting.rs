//! The paper's colour augmentation: noise along the principal components of the images' colours.
//!
//! §4.1: to every pixel of an image is added `[p1 p2 p3] [a1 l1, a2 l2, a3 l3]^T`, where `p_k` and
//! `l_k` are eigenvectors and "eigenvalues" of the 3x3 covariance of RGB values and `a_k` is drawn
//! from N(0, 0.1) once per showing of the image. The eigenvalues have the square of the pixels'
//! unit, so the formula means different noise for different units; [`LightingScale`] names the two
//! readings in use. This module knows nothing of pixels: it makes one shift per image.

use serde::{Deserialize, Serialize};

use super::moments::ColourStatistics;
use crate::random::Key;

/// The standard deviation of `a_k` (§4.1).
const ALPHA_STD: f64 = 0.1;

/// The eigenvalues of ImageNet that Torch's recipes use, for pixels in 0 to 1.
const TORCH_EIGENVALUES: [f64; 3] = [0.2175, 0.0188, 0.0045];

/// The principal components of the colours of an image set, in falling order of variance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Components {
    /// Standard deviations along the components, in grey levels (0 to 255).
    pub deviations: [f64; 3],
    /// For each component its direction, of length one: red, green, blue.
    pub directions: [[f64; 3]; 3],
}

impl From<&ColourStatistics> for Components {
    fn from(colours: &ColourStatistics) -> Self {
        Self { deviations: colours.component_std, directions: colours.components }
    }
}

impl Components {
    /// ImageNet's, from the metadata that the authors' own program came with.
    pub const IMAGENET: Self = Self {
        deviations: [121.78, 37.09, 19.72],
        directions: [
            [-0.5635, -0.5762, -0.5920],
            [-0.7126, -0.0235, 0.7012],
            [0.4180, -0.8170, 0.3973],
        ],
    };

    /// The eigenvalues of the covariance of pixels in 0 to 1: Torch's convention.
    #[must_use]
    pub fn eigenvalues01(&self) -> [f64; 3] {
        self.deviations.map(|deviation| (deviation / 255.0).powi(2))
    }
}

/// What stands for `l_k`.
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

/// Colour noise: how far and where to a colour is shifted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lighting {
    /// `l_1, l_2, l_3` in grey levels.
    lengths: [f64; 3],
    /// `p_1, p_2, p_3`.
    directions: [[f64; 3]; 3],
}

impl Lighting {
    /// Noise along `components`, as far as `scale` reads the paper.
    #[must_use]
    pub fn new(scale: LightingScale, components: &Components) -> Self {
        let lengths = match scale {
            LightingScale::Std => components.deviations,
            LightingScale::Eig01 => components.eigenvalues01().map(|value| value * 255.0),
        };
        Self { lengths, directions: components.directions }
    }

    /// The shift of one image in grey levels, red first; `key` is the image's own stream.
    #[must_use]
    pub fn shift(&self, key: Key) -> [f32; 3] {
        let mut shift = [0.0f64; 3];
        for ((k, length), direction) in (0..).zip(self.lengths).zip(self.directions) {
            let amount = ALPHA_STD * key.normal(k) * length;
            shift.iter_mut().zip(direction).for_each(|(channel, p)| *channel += amount * p);
        }
        shift.map(|channel| channel as f32)
    }
}

/// ImageNet's constants, each scale with the published numbers of its own.
impl From<LightingScale> for Lighting {
    fn from(scale: LightingScale) -> Self {
        let Components { deviations, directions } = Components::IMAGENET;
        let lengths = match scale {
            LightingScale::Std => deviations,
            LightingScale::Eig01 => TORCH_EIGENVALUES.map(|value| value * 255.0),
        };
        Self { lengths, directions }
    }
}
