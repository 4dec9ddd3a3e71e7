//! Overlapping max pooling: windows of 3 at a stride of 2 (paper §3.4).

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::{Layer, Mode, Pass, kept};
use crate::elements::{by_kind, slice, slice_mut};
use crate::kernels::pool::{Map, MaxPool as Rule};

/// A max-pooling layer, `[N, H, W, C]` to `[N, H', W', C]`, without padding.
pub(super) struct MaxPool {
    name: String,
    rule: Rule,
    kept: Option<Kept>,
}

/// What backward needs: where each output came from.
enum Kept {
    /// The position in the window, one byte each, and the shape of the input.
    Positions(Tensor, Map),
    /// libtorch's input and indices, for devices without our kernel.
    Indices(Tensor, Tensor),
}

/// The shape of a channels-last map.
pub(super) fn map_of(x: &Tensor) -> Map {
    let [num_images, height, width, channels] = x.size()[..] else {
        unreachable!("feature maps have four dimensions")
    };
    let [num_images, height, width, channels] =
        [num_images, height, width, channels].map(|size| size as usize);
    Map { num_images, height, width, channels }
}

/// `[N, H, W, C]` for a map's shape.
pub(super) fn size_of(map: Map) -> [i64; 4] {
    [map.num_images, map.height, map.width, map.channels].map(|size| size as i64)
}

impl MaxPool {
    pub(super) fn new(name: String, rule: Rule) -> Self {
        Self { name, rule, kept: None }
    }

    fn on_cpu(&self, x: &Tensor) -> Result<(Tensor, Kept)> {
        let map = map_of(x);
        let size = size_of(self.rule.output(map));
        let mut y = Tensor::f_empty(size, (x.kind(), Device::Cpu))?;
        let mut positions = Tensor::f_empty(size, (Kind::Uint8, Device::Cpu))?;
        by_kind!(x.kind(), T => self.rule.forward::<T>(
            slice(x),
            slice_mut(&mut y),
            slice_mut(&mut positions),
            map,
        ));
        Ok((y, Kept::Positions(positions, map)))
    }

    fn by_libtorch(&self, x: &Tensor) -> Result<(Tensor, Kept)> {
        let x = x.f_permute([0, 3, 1, 2])?;
        let (kernel, stride) = ([self.rule.window as i64; 2], [self.rule.stride as i64; 2]);
        let (y, indices) = x.f_max_pool2d_with_indices(kernel, stride, [0, 0], [1, 1], false)?;
        Ok((y.f_permute([0, 2, 3, 1])?.f_contiguous()?, Kept::Indices(x, indices)))
    }
}

impl Layer for MaxPool {
    fn name(&self) -> &str {
        &self.name
    }

    fn forward(&mut self, x: Tensor, pass: &Pass) -> Result<Tensor> {
        let cpu = x.device() == Device::Cpu;
        let (y, kept) = if cpu { self.on_cpu(&x)? } else { self.by_libtorch(&x)? };
        self.kept = (pass.mode == Mode::Train).then_some(kept);
        Ok(y)
    }

    fn backward(&mut self, dy: Tensor, _pass: &Pass) -> Result<Option<Tensor>> {
        match kept(&mut self.kept, &self.name)? {
            Kept::Positions(positions, map) => {
                let mut dx = Tensor::f_empty(size_of(map), (dy.kind(), Device::Cpu))?;
                by_kind!(dy.kind(), T => self.rule.backward::<T>(
                    slice(&dy),
                    slice(&positions),
                    slice_mut(&mut dx),
                    map,
                ));
                Ok(Some(dx))
            }
            Kept::Indices(x, indices) => {
                // tch makes the schema's `self`, here the input, the receiver.
                let dx = x.f_max_pool2d_with_indices_backward(
                    &dy.f_permute([0, 3, 1, 2])?,
                    [self.rule.window as i64; 2],
                    [self.rule.stride as i64; 2],
                    [0, 0],
                    [1, 1],
                    false,
                    &indices,
                )?;
                Ok(Some(dx.f_permute([0, 2, 3, 1])?.f_contiguous()?))
            }
        }
    }
}
