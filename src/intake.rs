//! A batch's way onto a rank's device: as tensors, in the precision the network computes in.
//!
//! Batches that loaders finish are copied; for others the device makes the last pass over the pixels.
//! To a GPU batches travel beside its computation. Nothing here knows what is computed.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::cuda::engine;
use crate::data::{Batch, Pixels, Unfinished};
use crate::elements::{by_kind, device_slice, device_slice_mut, slice_mut, tensor_of};
use crate::kernels::cuda::finish as on_gpu;
use crate::kernels::finish::Finish;
use crate::torch_ext::upload::{Part, Upload};

/// The way onto one device.
pub struct Intake {
    device: Device,
    kind: Kind,
    /// Of the images, in pixels.
    side: usize,
    upload: Option<Upload<Batch, 4>>,
    resident: Option<(Tensor, Tensor)>,
}

impl Intake {
    /// For images of `side` pixels a side that are computed with in `kind`, by this thread on `device`.
    ///
    /// # Errors
    /// If a GPU cannot be used.
    pub fn to(device: Device, kind: Kind, side: usize) -> Result<Self> {
        let upload = match device {
            Device::Cuda(ordinal) => Some(Upload::to(ordinal)?),
            _ => None,
        };
        Ok(Self { device, kind, side, upload, resident: None })
    }

    /// Has every batch from now on replaced by this one, which stays on the device: to measure steps
    /// alone.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn keep_resident(&mut self, batch: &Arc<Batch>) -> Result<()> {
        let (x, labels) = self.take(batch)?;
        self.resident = Some((x.f_detach_copy()?, labels.f_detach_copy()?));
        // Its memory is not the step's.
        self.upload = None;
        Ok(())
    }

    /// The images, `[n, side, side, 3]`, and their labels, `[images]`, for what is computed before the
    /// next call.
    ///
    /// # Errors
    /// If the images are of another size, or the device fails.
    pub fn take(&mut self, batch: &Arc<Batch>) -> Result<(Tensor, Tensor)> {
        if let Some((x, labels)) = &self.resident {
            return Ok((x.shallow_clone(), labels.shallow_clone()));
        }
        let (side, len) = (self.side, batch.images.len());
        ensure!(
            len.is_multiple_of((side * side * 3).max(1)),
            "{len} pixel values are no images of {side} pixels a side; set data.crop to 0, or to what \
             the network is fed"
        );
        ensure!(
            matches!(batch.images, Pixels::U8(_)) == batch.unfinished.is_some(),
            "a rank takes finished pixels, or bytes with what is left to do to them"
        );
        let (x, labels) = match &mut self.upload {
            None => (self.on_host(batch)?, tensor_of(&batch.labels)?),
            Some(upload) => {
                let [images, labels, windows, offsets] = upload.send(batch, parts)?;
                let x = match &batch.unfinished {
                    None => images,
                    Some(rest) => self.on_gpu(&images, &windows, &offsets, rest.scale)?,
                };
                (x, labels)
            }
        };
        let shape = [(len / (side * side * 3)) as i64, side as i64, side as i64, 3];
        Ok((x.f_view(shape)?.f_to_kind(self.kind)?, labels))
    }

    /// A copy of the batch's images in memory, finished.
    fn on_host(&self, batch: &Batch) -> Result<Tensor> {
        let pixels = match &batch.images {
            Pixels::F32(floats) => return Ok(tensor_of(floats)?),
            Pixels::Bf16(floats) => return Ok(tensor_of(floats)?),
            Pixels::U8(bytes) => bytes,
        };
        let rest = batch.unfinished.as_ref().context("bytes are not ready for the network")?;
        let Unfinished { windows, offsets, scale } = rest;
        let images = Finish { pixels, crop: self.side, windows, offsets, scale: *scale };
        let options = (finished(self.kind), self.device);
        let mut x = Tensor::f_empty([pixels.len() as i64], options)?;
        by_kind!(x.kind(), T => images.run(slice_mut::<T>(&mut x)));
        Ok(x)
    }

    /// Lets go of the batches last taken, once they have been copied: before a wait in which the loader
    /// could use their memory.
    ///
    /// # Errors
    /// If the GPU is lost.
    pub fn release(&mut self) -> Result<()> {
        self.upload.as_mut().map_or(Ok(()), Upload::release)
    }

    /// The last pass on the GPU, over bytes that lie there.
    fn on_gpu(
        &self,
        images: &Tensor,
        windows: &Tensor,
        offsets: &Tensor,
        scale: [f32; 3],
    ) -> Result<Tensor> {
        let on = engine(self.device).context(
            "the GPU cannot finish pixels without our kernels (see the warning above); set \
             data.finish to loader",
        )?;
        let images = on_gpu::Finish {
            pixels: device_slice(images),
            crop: self.side,
            windows: device_slice(windows),
            offsets: device_slice(offsets),
            scale,
        };
        let mut x =
            Tensor::f_empty([images.pixels.len() as i64], (finished(self.kind), self.device))?;
        by_kind!(x.kind(), T => on_gpu::finish(&on, &images, &mut device_slice_mut::<T>(&mut x))?);
        Ok(x)
    }
}

/// What the last pass writes for a network that computes in `kind`: as much as it knows.
fn finished(kind: Kind) -> Kind {
    match kind {
        Kind::BFloat16 => kind,
        _ => Kind::Float,
    }
}

/// The memory that travels: images, labels, windows and offsets.
fn parts(batch: &Batch) -> [Part<'_>; 4] {
    let images = match &batch.images {
        Pixels::U8(bytes) => Part::of(bytes),
        Pixels::Bf16(floats) => Part::of(floats),
        Pixels::F32(floats) => Part::of(floats),
    };
    let (windows, offsets): (&[[i32; 5]], &[[f32; 3]]) = match &batch.unfinished {
        None => (&[], &[]),
        Some(rest) => (&rest.windows, &rest.offsets),
    };
    let (windows, offsets) = (Part::of(windows.as_flattened()), Part::of(offsets.as_flattened()));
    [images, Part::of(&batch.labels), windows, offsets]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};
    use half::bf16;

    /// Bytes of two images of 4 pixels a side, what is left to do to them, and the finished values.
    fn batch() -> (Batch, Vec<f32>) {
        let key = Key::new(1, Purpose::Generate);
        let bytes: Vec<u8> = (0..96).map(|i| key.below(i, 256) as u8).collect();
        let (scale, offset) = ([1.0, 0.5, 0.25], [-120.0, 3.0, 7.5]);
        let mirrored = |i: usize| i / 12 * 12 + (3 - i / 3 % 4) * 3 + i % 3;
        let value = |i: usize| {
            let from = if i < 48 { i } else { mirrored(i) };
            f32::from(bytes[from]) * scale[i % 3] + offset[i % 3]
        };
        let values = (0..96).map(value).collect();
        let mut batch = Batch::standalone(0, Pixels::U8(bytes.clone()), vec![1, 2]);
        let windows = vec![[0, 0, 4, 4, 0], [0, 0, 4, 4, 1]];
        batch.unfinished = Some(Unfinished { scale, windows, offsets: vec![offset; 2] });
        (batch, values)
    }

    #[test]
    fn bytes_and_finished_pixels_come_to_the_same_tensor() {
        let (batch, values) = batch();
        let rounded: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
        let unfinished = Arc::new(batch);
        for (kind, pixels) in [
            (Kind::Float, Pixels::F32(values.clone())),
            (Kind::Double, Pixels::F32(values)),
            (Kind::BFloat16, Pixels::Bf16(rounded)),
        ] {
            let finished = Arc::new(Batch::standalone(0, pixels, vec![1, 2]));
            let mut intake = Intake::to(Device::Cpu, kind, 4).expect("needs nothing");
            let mut take = |batch| intake.take(batch).expect("two images");
            let ((x, labels), (y, _)) = (take(&unfinished), take(&finished));
            assert_eq!((x.kind(), x.size()), (kind, vec![2, 4, 4, 3]));
            assert_eq!(x, y, "{kind:?}");
            assert_eq!(labels, Tensor::from_slice(&[1i64, 2]));
        }
    }

    #[test]
    fn bytes_without_a_word_of_what_is_left_to_do_are_refused() {
        let batch = Arc::new(Batch::standalone(0, Pixels::U8(vec![0; 48]), vec![0]));
        let mut intake = Intake::to(Device::Cpu, Kind::Float, 4).expect("needs nothing");
        let error = intake.take(&batch).expect_err("not finished").to_string();
        assert!(error.contains("what is left to do"), "{error}");
    }

    #[test]
    fn images_of_another_size_are_refused_with_advice() {
        let batch = Arc::new(Batch::standalone(0, Pixels::F32(vec![0.0; 75]), vec![0]));
        let mut intake = Intake::to(Device::Cpu, Kind::Float, 4).expect("needs nothing");
        let error = intake.take(&batch).expect_err("five pixels a side").to_string();
        assert!(error.contains("4 pixels a side") && error.contains("data.crop"), "{error}");
    }
}
