//! Biases that a layer adds in its own pass over the map of a convolution, and their gradients.

use anyhow::Result;
use tch::{Kind, Tensor};

use crate::cuda::engine;
use crate::elements::{Element, by_kind, device_slice, device_slice_mut, slice, slice_mut};
use crate::kernels::bias;
use crate::kernels::cuda::bias as on_gpu;
use crate::kernels::real::Real;
use crate::params::Param;

/// Adds the bias to `x`, `[..., C]`, on a CPU, in place, rounding the sums.
pub(super) fn add(x: &mut Tensor, b: &Param) -> Result<()> {
    by_kind!(x.kind(), T => bias::add::<T>(slice_mut(x), slice(&b.weight)));
    Ok(())
}

/// Replaces `x`, `[..., C]`, by `max(x + b, 0)`.
pub(super) fn add_and_rectify(x: &mut Tensor, b: &Param) -> Result<()> {
    if let Some(on) = engine(x.device()) {
        by_kind!(x.kind(), T => on_gpu::relu::<T>(&on, &mut device_slice_mut(x), device_slice(&b.weight)))?;
    } else {
        add(x, b)?;
        let _ = x.f_relu_()?;
    }
    Ok(())
}

/// Fills the arena's gradient of a bias from that of the sums, `[..., C]`.
pub(super) fn put_gradient(dx: &Tensor, b: &mut Param) -> Result<()> {
    // Of a few classes a slice may hold none.
    if b.grad.numel() == 0 {
        return Ok(());
    }
    let dx = dx.f_contiguous()?;
    let Some(on) = engine(dx.device()) else {
        let db = dx.f_view([-1, b.grad.size()[0]])?.f_sum_dim_intlist(
            &[0i64][..],
            false,
            None::<Kind>,
        )?;
        b.grad.f_copy_(&db)?;
        return Ok(());
    };
    let num_channels = b.grad.numel();
    let len = on_gpu::num_partial_sums(dx.numel() / num_channels, num_channels);
    by_kind!(dx.kind(), T => {
        type Wide = <T as Real>::Wide;
        let mut partial = Tensor::f_empty([len as i64], (<Wide as Element>::KIND, dx.device()))?;
        let partial = &mut device_slice_mut::<Wide>(&mut partial);
        on_gpu::gradient::<T>(&on, device_slice(&dx), partial, &mut device_slice_mut(&mut b.grad))
    })?;
    Ok(())
}
