//! What one parameter is: its name, shape and kind, where it starts, and which part of it a rank holds.
//!
//! Names, shapes and initial values are those of the canonical, merged network, so that they do not
//! depend on how many ranks there are. Nothing here holds memory.

use rayon::prelude::*;
use tch::Tensor;

use crate::random::{Key, Purpose};

/// Whether a parameter is decayed and at which rate it learns (facts of the 2012 code; paper §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// A filter or a matrix: decayed.
    Weight,
    /// An offset: not decayed, with a learning-rate multiplier of its own.
    Bias,
}

/// The initial value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Gaussian with mean zero and this standard deviation.
    Normal(f64),
    /// The same number everywhere.
    Constant(f64),
}

/// Which rows (outputs) of the canonical parameter this rank holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// All of them.
    Whole,
    /// `rows` of `total`, starting at `first`: one column's filters.
    Rows {
        /// The first row held.
        first: i64,
        /// The number of rows held.
        rows: i64,
        /// The number of rows of the canonical parameter.
        total: i64,
    },
}

/// Who holds the same part of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holders {
    /// Every replica: gradients are summed over them, and each updates some of it.
    Replicas,
    /// One rank, whose gradient is complete.
    OneRank,
}

/// How the elements of a parameter lie in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In the order of the shape.
    RowMajor,
    /// `[O, I, H, W]` stored as O, H, W, I, which channels-last convolutions read directly.
    ChannelsLast,
}

/// One parameter as a rank holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// Canonical name, for instance `conv1.weight`.
    pub name: String,
    /// Shape on this rank, outputs first.
    pub shape: Vec<i64>,
    /// Weight or bias.
    pub kind: ParamKind,
    /// Initial value.
    pub init: Init,
    /// The part of the canonical parameter this is.
    pub placement: Placement,
    /// Who has the same part.
    pub holders: Holders,
    /// Storage order.
    pub layout: Layout,
}

impl ParamSpec {
    /// The number of elements on this rank.
    #[must_use]
    pub fn numel(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }

    /// Whether the rank that is `replica` on the data axis speaks for this parameter where one is
    /// enough: in checkpoints and comparisons.
    #[must_use]
    pub fn is_handed_in_by(&self, replica: usize) -> bool {
        self.holders == Holders::OneRank || replica == 0
    }

    /// The shape of the canonical parameter.
    #[must_use]
    pub fn canonical_shape(&self) -> Vec<i64> {
        let mut shape = self.shape.clone();
        if let Placement::Rows { total, .. } = self.placement {
            shape[0] = total;
        }
        shape
    }

    /// The initial values, `shape` in fp64: a function of the seed, the name and the canonical index
    /// only, so that every placement starts from the same network.
    pub fn initial(&self, seed: u64) -> Tensor {
        let values: Vec<f64> = match self.init {
            Init::Constant(value) => vec![value; self.numel()],
            Init::Normal(sigma) => {
                let key = Key::new(seed, Purpose::Init).with_name(&self.name);
                let first_row = match self.placement {
                    Placement::Whole => 0,
                    Placement::Rows { first, .. } => first as usize,
                };
                let row = self.shape[1..].iter().product::<i64>() as usize;
                let first = (first_row * row) as u64;
                (0..self.numel() as u64)
                    .into_par_iter()
                    .map(|i| sigma * key.normal(first + i))
                    .collect()
            }
        };
        Tensor::from_slice(&values).view(&self.shape[..])
    }

    /// `value`, of this shape, in the order the arena stores it, `[numel]`.
    pub(super) fn flat_as_stored(&self, value: &Tensor) -> Tensor {
        match self.layout {
            Layout::RowMajor => value.contiguous().view(-1),
            Layout::ChannelsLast => value.permute([0, 2, 3, 1]).contiguous().view(-1),
        }
    }
}
