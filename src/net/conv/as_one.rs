//! The groups of a convolution as one.
//!
//! cuDNN takes groups apart, copies their channels out and back in, and computes each alone. Filters over all
//! channels that are zero where their group does not look give the same sums, and are faster although half the
//! products are with zeros (docs/results/gpu.md).

use anyhow::Result;
use tch::Tensor;

use super::nchw;

/// Filters over all channels.
pub(super) struct AsOne {
    groups: i64,
    /// `[O, I, K, K]`, once they are needed. Between the groups they stay zero.
    filters: Option<Tensor>,
}

impl AsOne {
    pub(super) fn of(groups: i64) -> Self {
        Self { groups, filters: None }
    }

    /// `[O, I / groups, K, K]` to `[O, I, K, K]`, channels last.
    pub(super) fn weights(&mut self, w: &Tensor) -> Result<Tensor> {
        let [o, i, height, width] = w.size()[..] else {
            unreachable!("filters have four dimensions")
        };
        let filters = match self.filters.take() {
            Some(filters) => filters,
            None => {
                let size = [o, height, width, i * self.groups];
                nchw(&Tensor::f_zeros(size, (w.kind(), w.device()))?)?
            }
        };
        for (mut part, w) in self.parts(&filters)?.into_iter().zip(w.f_chunk(self.groups, 0)?) {
            part.f_copy_(&w)?;
        }
        self.filters = Some(filters.shallow_clone());
        Ok(filters)
    }

    /// Puts the gradient of the filters over all channels into `grad`, `[O, I / groups, K, K]`.
    pub(super) fn put_weight_gradient(&self, dw: &Tensor, grad: &Tensor) -> Result<()> {
        for (mut grad, part) in grad.f_chunk(self.groups, 0)?.into_iter().zip(self.parts(dw)?) {
            grad.f_copy_(&part)?;
        }
        Ok(())
    }

    /// The part of each group's filters that its own channels belong to.
    fn parts(&self, filters: &Tensor) -> Result<Vec<Tensor>> {
        let of_groups = filters.f_chunk(self.groups, 0)?;
        let own = |(group, filters): (usize, &Tensor)| -> Result<Tensor> {
            let channels = filters.size()[1] / self.groups;
            Ok(filters.f_narrow(1, group as i64 * channels, channels)?)
        };
        of_groups.iter().enumerate().map(own).collect()
    }
}
