//! Maps stacked by groups of channels: `[S * N, H, W, C / S]`, the images of the first group, then those of the next.
//!
//! For a layer that keeps groups apart they are a larger batch of narrower maps. So a convolution of groups becomes
//! one for each, of maps without gaps, which is how cuDNN is fastest (docs/results/gpu.md).

use anyhow::Result;
use tch::Tensor;

use super::pool::map_of;
use crate::kernels::pool::Map;

/// Maps by their stacks, or parameters by the groups that these are of.
///
/// # Errors
/// If libtorch refuses.
pub(super) fn by_stack(x: &Tensor, stacks: usize) -> Result<Vec<Tensor>> {
    Ok(x.f_chunk(stacks as i64, 0)?)
}

/// The shape of a map of so many stacks if its channels lay side by side.
pub(super) fn side_by_side(x: &Tensor, stacks: usize) -> Map {
    let map = map_of(x);
    Map { num_images: map.num_images / stacks, channels: map.channels * stacks, ..map }
}

/// The size of `x`, `[N, H, W, C]`, in so many stacks.
///
/// # Errors
/// If it has not four dimensions.
pub(super) fn size_in_stacks(x: &Tensor, stacks: usize) -> Result<[i64; 4]> {
    let ((n, h, w, c), stacks) = (x.size4()?, stacks as i64);
    Ok([stacks * n, h, w, c / stacks])
}

/// `[N, H, W, C]` in so many stacks, `[S * N, H, W, C / S]`.
///
/// # Errors
/// If they do not divide the channels.
pub fn stack(x: Tensor, stacks: usize) -> Result<Tensor> {
    if stacks == 1 {
        return Ok(x);
    }
    let size = size_in_stacks(&x, stacks)?;
    let ((n, h, w, c), stacks) = (x.size4()?, stacks as i64);
    let stacked = x.f_view([n, h, w, stacks, c / stacks])?.f_permute([3, 0, 1, 2, 4])?;
    Ok(stacked.f_contiguous()?.f_view(size)?)
}

/// The way back from [`stack`].
///
/// # Errors
/// If they do not divide the images.
pub fn unstack(x: Tensor, stacks: usize) -> Result<Tensor> {
    if stacks == 1 {
        return Ok(x);
    }
    let ((n, h, w, c), stacks) = (x.size4()?, stacks as i64);
    let side_by_side = x.f_view([stacks, n / stacks, h, w, c])?.f_permute([1, 2, 3, 0, 4])?;
    Ok(side_by_side.f_contiguous()?.f_view([n / stacks, h, w, stacks * c])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn each_stack_has_a_groups_channels_of_all_images() {
        let x = Tensor::arange(2 * 3 * 6, (Kind::Float, Device::Cpu)).view([2, 1, 3, 6]);
        let stacked = stack(x.shallow_clone(), 2).expect("divides");
        assert_eq!(stacked.size(), [4, 1, 3, 3]);
        for (group, of_group) in stacked.chunk(2, 0).iter().enumerate() {
            assert_eq!(*of_group, x.narrow(3, 3 * group as i64, 3), "group {group}");
        }
        assert_eq!(unstack(stacked, 2).expect("divides"), x);
    }
}
