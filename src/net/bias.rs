//! Biases that a layer adds in its own pass over the map of a convolution, and their gradients.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::pool::size_of;
use super::stack::{by_stack, side_by_side, size_in_stacks};
use crate::cuda::engine;
use crate::elements::{Element, by_kind, device_slice, device_slice_mut, slice, slice_mut};
use crate::kernels::bias;
use crate::kernels::cuda::bias as on_gpu;
use crate::kernels::real::Real;
use crate::kernels::stacks::Stacks;
use crate::params::Param;

/// Adds the bias to `x`, `[..., C]` or in so many stacks, in place, rounding the sums.
pub(super) fn add(x: &mut Tensor, b: &Param, stacks: usize) -> Result<()> {
    for (mut x, b) in by_stack(x, stacks)?.into_iter().zip(by_stack(&b.weight, stacks)?) {
        match x.device() {
            Device::Cpu => by_kind!(x.kind(), T => bias::add::<T>(slice_mut(&mut x), slice(&b))),
            _ => drop(x.f_add_(&b)?),
        }
    }
    Ok(())
}

/// Replaces `x`, `[..., C]` or in so many stacks, by `max(x + b, 0)`.
pub(super) fn add_and_rectify(x: &mut Tensor, b: &Param, stacks: usize) -> Result<()> {
    let Some(on) = engine(x.device()) else {
        add(x, b, stacks)?;
        let _ = x.f_relu_()?;
        return Ok(());
    };
    for (mut x, b) in by_stack(x, stacks)?.into_iter().zip(by_stack(&b.weight, stacks)?) {
        by_kind!(x.kind(), T => on_gpu::relu::<T>(&on, &mut device_slice_mut(&mut x), device_slice(&b)))?;
    }
    Ok(())
}

/// `max(x + b, 0)` of `x`, `[N, H, W, C]`, in the stacks of the output: where a GPU does it in the same pass.
pub(super) fn rectified_into_stacks(
    x: &Tensor,
    b: &Param,
    stacks: Stacks,
) -> Result<Option<Tensor>> {
    let Some(on) = engine(x.device()).filter(|_| stacks.input == 1 && stacks.output > 1) else {
        return Ok(None);
    };
    let mut y = Tensor::f_empty(size_in_stacks(x, stacks.output)?, (x.kind(), x.device()))?;
    by_kind!(x.kind(), T => on_gpu::relu_into_stacks::<T>(
        &on,
        device_slice(x),
        device_slice(&b.weight),
        &mut device_slice_mut(&mut y),
        stacks.output,
    ))?;
    Ok(Some(y))
}

/// The gradient of what [`rectified_into_stacks`] was given, where a GPU computed it so.
pub(super) fn unrectified_from_stacks(
    y: &Tensor,
    dy: &Tensor,
    stacks: Stacks,
) -> Result<Option<Tensor>> {
    let Some(on) = engine(y.device()).filter(|_| stacks.input == 1 && stacks.output > 1) else {
        return Ok(None);
    };
    let map = side_by_side(y, stacks.output);
    let mut dx = Tensor::f_empty(size_of(map), (y.kind(), y.device()))?;
    by_kind!(y.kind(), T => on_gpu::unrelu_from_stacks::<T>(
        &on,
        [device_slice(y), device_slice(dy)],
        &mut device_slice_mut(&mut dx),
        map.channels,
        stacks.output,
    ))?;
    Ok(Some(dx))
}

/// Fills the arena's gradient of a bias from that of the sums, `[..., C]` or in so many stacks.
pub(super) fn put_gradient(dx: &Tensor, b: &Param, stacks: usize) -> Result<()> {
    // Of a few classes a slice may hold none.
    if b.grad.numel() == 0 {
        return Ok(());
    }
    for (dx, mut db) in by_stack(dx, stacks)?.iter().zip(by_stack(&b.grad, stacks)?) {
        put_part(&dx.f_contiguous()?, &mut db)?;
    }
    Ok(())
}

fn put_part(dx: &Tensor, db: &mut Tensor) -> Result<()> {
    let num_channels = db.numel();
    let Some(on) = engine(dx.device()) else {
        let rows = dx.f_view([-1, num_channels as i64])?;
        db.f_copy_(&rows.f_sum_dim_intlist(&[0i64][..], false, None::<Kind>)?)?;
        return Ok(());
    };
    let len = on_gpu::num_partial_sums(dx.numel() / num_channels, num_channels);
    by_kind!(dx.kind(), T => {
        type Wide = <T as Real>::Wide;
        let mut partial = Tensor::f_empty([len as i64], (<Wide as Element>::KIND, dx.device()))?;
        let partial = &mut device_slice_mut::<Wide>(&mut partial);
        on_gpu::gradient::<T>(&on, device_slice(dx), partial, &mut device_slice_mut(db))
    })?;
    Ok(())
}
