//! From host memory to tensors on a GPU, beside its computation. FFI: CUDA's asynchronous copies.
//!
//! Copies run on a stream of their own into one of two sets of tensors, in turns: one set fills while
//! the other is computed with. The host waits for nothing but a copy of two turns ago. What is copied
//! stays alive until its copy is done; memory that is not pinned is copied correctly, but the host waits
//! for it.
#![allow(unsafe_code)]

use std::sync::Arc;

use anyhow::Result;
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaStream, result};
use tch::{Device, Kind, Tensor};

use super::cuda::borrowed_stream;
use crate::elements::Element;

/// Elements to be copied.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    bytes: &'a [u8],
    kind: Kind,
}

impl<'a> Part<'a> {
    /// These elements.
    #[must_use]
    pub fn of<T: Element>(elements: &'a [T]) -> Self {
        // SAFETY: elements are plain: they are their bytes, without padding.
        let bytes =
            unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) };
        Self { bytes, kind: T::KIND }
    }

    fn len(&self) -> usize {
        self.bytes.len() / self.kind.elt_size_in_bytes()
    }
}

/// Copies the parts of one `O` after another to this thread's device.
pub struct Upload<O, const PARTS: usize> {
    device: usize,
    compute: Arc<CudaStream>,
    copies: Arc<CudaStream>,
    /// The one to be used next is the first.
    turns: [Turn<O>; 2],
}

/// One set of tensors.
struct Turn<O> {
    tensors: Vec<Tensor>,
    /// Passed once everything is computed that was asked for before the last upload to them.
    issued: CudaEvent,
    /// What is copied to them, until it is known that the copy is done.
    owner: Option<Arc<O>>,
    /// Passed when it is.
    arrived: CudaEvent,
}

impl<O, const PARTS: usize> Upload<O, PARTS> {
    /// Uploads to GPU `device`, for what this thread computes there.
    ///
    /// # Errors
    /// If the GPU cannot be used.
    pub fn to(device: usize) -> Result<Self> {
        let compute = borrowed_stream(device)?;
        // SAFETY: the events in question are those of cudarc's own slices, and there are none. Without this
        // a first stream waits for the whole GPU, and there may be ranks on it that wait for this one.
        unsafe { compute.context().disable_event_tracking() };
        let copies = compute.context().new_stream()?;
        let turns = [Turn::on(&copies)?, Turn::on(&copies)?];
        Ok(Self { device, compute, copies, turns })
    }

    /// Copies the parts of `owner` to flat tensors, for what is computed from now on and before the next
    /// upload.
    ///
    /// # Errors
    /// If there is no memory left on the GPU, or it is lost. Nothing may be uploaded after that.
    pub fn send(
        &mut self,
        owner: &Arc<O>,
        parts: impl for<'a> Fn(&'a O) -> [Part<'a>; PARTS],
    ) -> Result<[Tensor; PARTS]> {
        let parts = parts(owner);
        let [turn, other] = &mut self.turns;
        turn.release()?;
        turn.issued.record(&self.compute)?;
        let is_new = turn.reserve(&parts, self.device)?;
        // New memory may be in use by what was asked for last; else the last to use this set was what
        // was computed before the upload before this.
        self.copies.wait(if is_new { &turn.issued } else { &other.issued })?;
        turn.owner = Some(Arc::clone(owner));
        if let Err(error) = turn.copy(&parts, &self.copies) {
            // Nothing marks the end of what was begun.
            let _ = self.copies.synchronize();
            turn.owner = None;
            return Err(error);
        }
        self.compute.wait(&turn.arrived)?;
        let sent = std::array::from_fn(|i| turn.tensors[i].narrow(0, 0, parts[i].len() as i64));
        self.turns.rotate_left(1);
        Ok(sent)
    }

    /// Lets go of all that has been sent, once it has been copied.
    ///
    /// # Errors
    /// If the GPU is lost.
    pub fn release(&mut self) -> Result<()> {
        self.turns.iter_mut().try_for_each(Turn::release)
    }
}

impl<O> Turn<O> {
    fn on(copies: &CudaStream) -> Result<Self> {
        let issued = copies.context().new_event(None)?;
        // Of the flags this has the thread sleep while it waits.
        let sleeping = Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC);
        let arrived = copies.context().new_event(sleeping)?;
        Ok(Self { tensors: vec![], issued, owner: None, arrived })
    }

    /// Waits for the copy and lets go of what was copied.
    fn release(&mut self) -> Result<()> {
        if self.owner.is_some() {
            self.arrived.synchronize()?;
        }
        self.owner = None;
        Ok(())
    }

    /// Copies the parts, of `owner`, and marks the end of it.
    fn copy(&self, parts: &[Part<'_>], copies: &CudaStream) -> Result<()> {
        for (part, tensor) in parts.iter().zip(&self.tensors).filter(|(part, _)| part.len() > 0) {
            let address = tensor.data_ptr() as u64;
            // SAFETY: the tensor has room for the part, and nothing on the GPU uses it when the stream comes
            // here: see `send`. The part lives in `owner`, which is kept until the copy is done.
            unsafe { result::memcpy_htod_async(address, part.bytes, copies.cu_stream())? };
        }
        Ok(self.arrived.record(copies)?)
    }

    /// Makes room for the parts; whether any of it is new.
    fn reserve(&mut self, parts: &[Part<'_>], device: usize) -> Result<bool> {
        let mut is_new = false;
        for (i, part) in parts.iter().enumerate() {
            let fits = |tensor: &Tensor| tensor.kind() == part.kind && tensor.numel() >= part.len();
            if self.tensors.get(i).is_some_and(fits) {
                continue;
            }
            let options = (part.kind, Device::Cuda(device));
            let tensor = Tensor::f_empty([part.len() as i64], options)?;
            is_new = true;
            match self.tensors.get_mut(i) {
                Some(old) => *old = tensor,
                None => self.tensors.push(tensor),
            }
        }
        Ok(is_new)
    }
}

impl<O, const PARTS: usize> Drop for Upload<O, PARTS> {
    fn drop(&mut self) {
        // The tensors and what they are copied from are given back after this.
        if let Err(error) = self.copies.synchronize() {
            tracing::debug!("a copy to GPU {} failed: {error}", self.device);
        }
    }
}
