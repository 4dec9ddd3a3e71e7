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
    /// Passed once everything is computed that was asked for before the last upload.
    issued: Option<CudaEvent>,
}

/// One set of tensors.
struct Turn<O> {
    tensors: Vec<Tensor>,
    /// What is copied to them, until it is known that the copy is done.
    owner: Option<Arc<O>>,
    /// Passed when it is; none if it could not be asked for.
    arrived: Option<CudaEvent>,
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
        let turns = std::array::from_fn(|_| Turn { tensors: vec![], owner: None, arrived: None });
        Ok(Self { device, compute, copies, turns, issued: None })
    }

    /// Copies the parts of `owner` to flat tensors, for what is computed from now on. They hold
    /// something else after the next upload but one.
    ///
    /// # Errors
    /// If there is no memory left on the GPU, or it is lost.
    pub fn send(
        &mut self,
        owner: &Arc<O>,
        parts: impl for<'a> Fn(&'a O) -> [Part<'a>; PARTS],
    ) -> Result<[Tensor; PARTS]> {
        let parts = parts(owner);
        let [turn, _] = &mut self.turns;
        turn.release(&self.copies)?;
        let issued = self.compute.record_event(None)?;
        let is_new = turn.reserve(&parts, self.device)?;
        // New memory may be in use by what was asked for last; else the last to use this set was what
        // was computed before the upload before this.
        match &self.issued {
            Some(before) if !is_new => self.copies.wait(before)?,
            _ => self.copies.wait(&issued)?,
        }
        self.issued = Some(issued);
        turn.owner = Some(Arc::clone(owner));
        for (part, tensor) in parts.iter().zip(&turn.tensors).filter(|(part, _)| part.len() > 0) {
            let address = tensor.data_ptr() as u64;
            // SAFETY: the tensor has room for the part, and nothing on the GPU uses it: see above. The
            // part lives in `owner`, which is kept until the copy is done.
            unsafe {
                result::memcpy_htod_async(address, part.bytes, self.copies.cu_stream())?;
            }
        }
        // Of the flags this has the thread sleep while it waits.
        let arrived = self.copies.record_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC))?;
        self.compute.wait(&arrived)?;
        turn.arrived = Some(arrived);
        let sent = std::array::from_fn(|i| turn.tensors[i].narrow(0, 0, parts[i].len() as i64));
        self.turns.rotate_left(1);
        Ok(sent)
    }

    /// Lets go of all that has been sent, once it has been copied.
    ///
    /// # Errors
    /// If the GPU is lost.
    pub fn release(&mut self) -> Result<()> {
        self.turns.iter_mut().try_for_each(|turn| turn.release(&self.copies))
    }
}

impl<O> Turn<O> {
    /// Waits for the copy and lets go of what was copied.
    fn release(&mut self, copies: &CudaStream) -> Result<()> {
        match (&self.owner, self.arrived.take()) {
            (None, _) => {}
            (Some(_), Some(arrived)) => arrived.synchronize()?,
            (Some(_), None) => copies.synchronize()?,
        }
        self.owner = None;
        Ok(())
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
