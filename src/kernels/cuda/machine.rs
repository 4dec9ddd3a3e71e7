//! Engines with memory of their own, for checks and measurements. FFI: the memory is known by its address.
//!
//! In training, memory is libtorch's, and this is not used.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use super::error::CudaError;
use super::launch::Engine;
use super::memory::{Plain, Slice, SliceMut};

/// An engine with memory of its own.
pub trait Machine: Engine {
    /// The address of new zeroed memory, aligned to 256 bytes.
    ///
    /// # Errors
    /// If there is none left.
    fn allocate(&self, num_bytes: usize) -> Result<u64, CudaError>;
    /// Gives memory back.
    ///
    /// # Safety
    /// `address` must come from `allocate` of the same length, and not be used again.
    unsafe fn free(&self, address: u64, num_bytes: usize);
    /// Copies `bytes` to `address`, after all work launched before.
    ///
    /// # Safety
    /// There must be as much memory.
    ///
    /// # Errors
    /// If the copy, or work before it, failed.
    unsafe fn write(&self, address: u64, bytes: &[u8]) -> Result<(), CudaError>;
    /// Fills `bytes` from `address`, after all work launched before.
    ///
    /// # Safety
    /// There must be as much memory.
    ///
    /// # Errors
    /// If the copy, or work before it, failed.
    unsafe fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), CudaError>;
}

/// Elements in a machine's memory, owned.
pub struct Buffer<'m, T> {
    machine: &'m dyn Machine,
    address: u64,
    len: usize,
    elements: PhantomData<T>,
}

impl<'m, T: Plain> Buffer<'m, T> {
    /// `len` zeros.
    ///
    /// # Errors
    /// If there is no memory left.
    pub fn zeros(machine: &'m dyn Machine, len: usize) -> Result<Self, CudaError> {
        let address = machine.allocate((len * size_of::<T>()).max(1))?;
        Ok(Self { machine, address, len, elements: PhantomData })
    }

    /// A copy of `values`.
    ///
    /// # Errors
    /// If there is no memory left, or the copy fails.
    pub fn of(machine: &'m dyn Machine, values: &[T]) -> Result<Self, CudaError> {
        let buffer = Self::zeros(machine, values.len())?;
        // SAFETY: plain values are their bytes.
        let bytes = unsafe {
            std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values))
        };
        // SAFETY: the buffer has as many bytes.
        unsafe { machine.write(buffer.address, bytes)? };
        Ok(buffer)
    }

    /// The elements, after all work launched before.
    ///
    /// # Errors
    /// If that work or the copy failed.
    pub fn to_vec(&self) -> Result<Vec<T>, CudaError> {
        let mut values = Vec::<T>::with_capacity(self.len);
        // SAFETY: the bytes of the vector's capacity; zeroed below before they are seen.
        let bytes = unsafe {
            values.as_mut_ptr().cast::<u8>().write_bytes(0, self.len * size_of::<T>());
            std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), self.len * size_of::<T>())
        };
        // SAFETY: the buffer has as many bytes.
        unsafe { self.machine.read(self.address, bytes)? };
        // SAFETY: all `len` elements are initialised; every bit pattern is valid.
        unsafe { values.set_len(self.len) };
        Ok(values)
    }

    /// The elements, for a kernel to read.
    #[must_use]
    pub fn slice(&self) -> Slice<'_, T> {
        // SAFETY: zeroed when it was allocated, aligned for everything, and borrowed.
        unsafe { Slice::from_raw_parts(self.address, self.len) }
    }

    /// The elements, for a kernel to write.
    #[must_use]
    pub fn slice_mut(&mut self) -> SliceMut<'_, T> {
        // SAFETY: as above, and for its borrower alone.
        unsafe { SliceMut::from_raw_parts(self.address, self.len) }
    }
}

impl<T> Drop for Buffer<'_, T> {
    fn drop(&mut self) {
        // SAFETY: allocated with this length in `zeros`; slices of it have ended with their borrows.
        unsafe { self.machine.free(self.address, (self.len * size_of::<T>()).max(1)) }
    }
}
