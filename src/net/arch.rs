//! The architectures, as lists of layer specifications.
//!
//! A specification says what a layer computes over the whole model. Columns belong to the model (they
//! are the `groups` of its layers); which device computes what is decided in [`super::build`].

use crate::kernels::lrn::Lrn;

/// How weights are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WeightInit {
    /// Gaussian with this standard deviation.
    Sigma(f64),
    /// Gaussian with variance 2 / fan-in (He et al. 2015).
    He,
    /// Gaussian with the variance of PyTorch's default, 1 / (3 fan-in).
    Torch,
}

/// Initial values of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InitSpec {
    /// How weights are drawn.
    pub weight: WeightInit,
    /// The constant biases start from.
    pub bias: f64,
}

/// Zeros around a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    /// On the left and at the top.
    pub before: i64,
    /// On the right and at the bottom; not less than `before`.
    pub after: i64,
}

impl From<i64> for Padding {
    /// As many on each side.
    fn from(each: i64) -> Self {
        Self { before: each, after: each }
    }
}

/// How the 55 x 55 maps of the paper's first layer come about: 224 x 224 pixels (§3.5) are too few
/// for 55 filters of 11 pixels at a stride of 4, and reproductions differ in what they add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputForm {
    /// 227 x 227 pixels, no zeros (Caffe).
    Side227,
    /// 224 x 224 pixels and two zeros on each side (torchvision).
    Side224Padded,
    /// 224 x 224 pixels and three zeros on the right and at the bottom: the 2012 program, whose last
    /// filter hangs over the border.
    Side224Filled,
}

/// One layer of the whole model.
#[derive(Clone, Debug, PartialEq)]
pub enum LayerSpec {
    /// A convolution.
    Conv {
        /// `conv1`, …
        name: &'static str,
        /// Output channels.
        filters: i64,
        /// Side of the filters.
        kernel: i64,
        /// Step between windows.
        stride: i64,
        /// Zeros around the input.
        padding: Padding,
        /// Groups of channels that do not see each other.
        groups: i64,
        /// Initial values.
        init: InitSpec,
    },
    /// `max(0, x)`.
    Relu,
    /// Local response normalisation within each of `groups` of channels.
    Lrn {
        /// The constants.
        rule: Lrn,
        /// Groups of channels that do not see each other.
        groups: i64,
    },
    /// Max pooling without padding.
    MaxPool {
        /// Side of the window.
        kernel: i64,
        /// Step between windows.
        stride: i64,
    },
    /// From maps to vectors.
    Flatten,
    /// Dropout.
    Dropout {
        /// The probability that a unit is dropped.
        rate: f64,
    },
    /// A fully-connected layer.
    Linear {
        /// `fc6`, …
        name: &'static str,
        /// Output units.
        outputs: i64,
        /// Initial values.
        init: InitSpec,
    },
}

/// A model: what it is fed and its layers in forward order.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// The name in configurations and checkpoints.
    pub name: &'static str,
    /// The side of the square RGB input, in pixels.
    pub input: i64,
    /// Layers in forward order, ending in logits.
    pub layers: Vec<LayerSpec>,
}

/// Every architecture's name, for messages.
pub const NAMES: [&str; 3] = ["alexnet", "alexnet-owt", "alexnet-cifar"];

impl Architecture {
    /// The architecture called `name`, for `classes` classes and this dropout rate.
    #[must_use]
    pub fn by_name(name: &str, classes: i64, dropout: f64) -> Option<Self> {
        match name {
            "alexnet" => Some(alexnet(classes, dropout)),
            "alexnet-owt" => Some(alexnet_owt(classes, dropout)),
            "alexnet-cifar" => Some(alexnet_cifar(classes, dropout)),
            _ => None,
        }
    }

    /// The same network fed in another form; only where the first layer is that of the paper (11 x 11
    /// filters, stride 4), whose maps stay 55 x 55.
    #[must_use]
    pub fn with_input(mut self, form: InputForm) -> Option<Self> {
        let LayerSpec::Conv { kernel: 11, stride: 4, padding, .. } = self.layers.first_mut()?
        else {
            return None;
        };
        (self.input, *padding) = match form {
            InputForm::Side227 => (227, 0.into()),
            InputForm::Side224Padded => (224, 2.into()),
            InputForm::Side224Filled => (224, Padding { before: 0, after: 3 }),
        };
        Some(self)
    }

    /// The columns it was designed in (§3.2), whatever number of devices computes it: the most groups of a
    /// convolution.
    #[must_use]
    pub fn columns(&self) -> i64 {
        let groups = |layer: &LayerSpec| match layer {
            LayerSpec::Conv { groups, .. } => *groups,
            _ => 1,
        };
        self.layers.iter().map(groups).max().unwrap_or(1)
    }

    /// The number of classes: the outputs of the last layer.
    #[must_use]
    pub fn classes(&self) -> i64 {
        let outputs = |layer: &LayerSpec| match layer {
            LayerSpec::Linear { outputs, .. } => Some(*outputs),
            _ => None,
        };
        self.layers.iter().rev().find_map(outputs).unwrap_or(0)
    }
}

/// `[name, filters, kernel, stride, padding, groups]` of a convolution, before its initial values.
type ConvRow = (&'static str, i64, i64, i64, i64, i64);

fn conv((name, filters, kernel, stride, padding, groups): ConvRow, init: InitSpec) -> LayerSpec {
    LayerSpec::Conv { name, filters, kernel, stride, padding: padding.into(), groups, init }
}

fn linear(name: &'static str, outputs: i64, init: InitSpec) -> LayerSpec {
    LayerSpec::Linear { name, outputs, init }
}

/// Overlapping pooling (paper §3.4).
const POOL: LayerSpec = LayerSpec::MaxPool { kernel: 3, stride: 2 };

fn gaussian(sigma: f64, bias: f64) -> InitSpec {
    InitSpec { weight: WeightInit::Sigma(sigma), bias }
}

/// The paper's two-column network (§3.5, figure 2), 227 × 227 input without padding, which gives the
/// 55 × 55 maps of the original. Biases of one where §5 sets them; σ = 0.03 in conv3 to conv5 as in
/// the 2012 code (the paper's text has 0.01 everywhere).
fn alexnet(classes: i64, rate: f64) -> Architecture {
    use LayerSpec::{Dropout, Flatten, Relu};
    let norm = LayerSpec::Lrn { rule: Lrn::PAPER, groups: 2 };
    let layers = vec![
        conv(("conv1", 96, 11, 4, 0, 1), gaussian(0.01, 0.0)), // [55, 55, 96]
        Relu,
        norm.clone(),
        POOL,                                                  // [27, 27, 96]
        conv(("conv2", 256, 5, 1, 2, 2), gaussian(0.01, 1.0)), // [27, 27, 256]
        Relu,
        norm,
        POOL,                                                  // [13, 13, 256]
        conv(("conv3", 384, 3, 1, 1, 1), gaussian(0.03, 0.0)), // [13, 13, 384], sees both columns
        Relu,
        conv(("conv4", 384, 3, 1, 1, 2), gaussian(0.03, 1.0)),
        Relu,
        conv(("conv5", 256, 3, 1, 1, 2), gaussian(0.03, 1.0)), // [13, 13, 256]
        Relu,
        POOL, // [6, 6, 256]
        Flatten,
        linear("fc6", 4096, gaussian(0.01, 1.0)),
        Relu,
        Dropout { rate },
        linear("fc7", 4096, gaussian(0.01, 1.0)),
        Relu,
        Dropout { rate },
        linear("fc8", classes, gaussian(0.01, 0.0)),
    ];
    Architecture { name: "alexnet", input: 227, layers }
}

/// torchvision's `alexnet`: the layers of "One weird trick" (arXiv 1404.5997), one column, no LRN,
/// 224 × 224 input, dropout before the fully-connected layers.
fn alexnet_owt(classes: i64, rate: f64) -> Architecture {
    use LayerSpec::{Dropout, Flatten, Relu};
    let init = InitSpec { weight: WeightInit::Torch, bias: 0.0 };
    let layers = vec![
        conv(("conv1", 64, 11, 4, 2, 1), init), // [55, 55, 64]
        Relu,
        POOL,                                   // [27, 27, 64]
        conv(("conv2", 192, 5, 1, 2, 1), init), // [27, 27, 192]
        Relu,
        POOL,                                   // [13, 13, 192]
        conv(("conv3", 384, 3, 1, 1, 1), init), // [13, 13, 384]
        Relu,
        conv(("conv4", 256, 3, 1, 1, 1), init),
        Relu,
        conv(("conv5", 256, 3, 1, 1, 1), init), // [13, 13, 256]
        Relu,
        POOL, // [6, 6, 256]
        Flatten,
        Dropout { rate },
        linear("fc6", 4096, init),
        Relu,
        Dropout { rate },
        linear("fc7", 4096, init),
        Relu,
        linear("fc8", classes, init),
    ];
    Architecture { name: "alexnet-owt", input: 224, layers }
}

/// The paper's network for 32 × 32 images: two columns, LRN, overlapping pooling and dropout, with
/// filters of 5 and 3 pixels from the start and smaller fully-connected layers.
fn alexnet_cifar(classes: i64, rate: f64) -> Architecture {
    use LayerSpec::{Dropout, Flatten, Relu};
    let he = |bias| InitSpec { weight: WeightInit::He, bias };
    let norm = LayerSpec::Lrn { rule: Lrn::PAPER, groups: 2 };
    let layers = vec![
        conv(("conv1", 64, 5, 1, 2, 1), he(0.0)), // [32, 32, 64]
        Relu,
        POOL, // [15, 15, 64]
        norm.clone(),
        conv(("conv2", 192, 5, 1, 2, 2), he(0.0)), // [15, 15, 192]
        Relu,
        POOL, // [7, 7, 192]
        norm,
        conv(("conv3", 256, 3, 1, 1, 1), he(0.0)), // [7, 7, 256], sees both columns
        Relu,
        conv(("conv4", 256, 3, 1, 1, 2), he(0.0)),
        Relu,
        conv(("conv5", 256, 3, 1, 1, 2), he(0.0)), // [7, 7, 256]
        Relu,
        POOL, // [3, 3, 256]
        Flatten,
        linear("fc6", 1024, he(0.0)),
        Relu,
        Dropout { rate },
        linear("fc7", 512, he(0.0)),
        Relu,
        Dropout { rate },
        linear("fc8", classes, he(0.0)),
    ];
    Architecture { name: "alexnet-cifar", input: 32, layers }
}
