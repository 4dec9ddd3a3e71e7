//! Slices of device memory, and values as kernels take them. FFI: the only file that makes either
//! from raw addresses.
//!
//! A slice carries its length and borrows its memory, so that kernels can check what they are given
//! as their CPU twins do. Nothing here knows what is computed, or on what.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::marker::PhantomData;

use half::bf16;

use super::error::CudaError;
use super::launch::Engine;

/// A type whose every value is its bytes, without padding, with the same layout on the device.
///
/// # Safety
/// Any bit pattern must be valid, and no byte may be padding.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

macro_rules! plain {
    ($($name:ty),*) => {$(
        // SAFETY: a number without padding; every bit pattern is one.
        unsafe impl Plain for $name {}
    )*};
}
plain!(u8, i32, u32, i64, u64, f32, f64, bf16);
// SAFETY: elements follow each other without padding.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Elements in device memory, for reading.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a, T> {
    address: u64,
    len: usize,
    memory: PhantomData<&'a [T]>,
}

/// Elements in device memory, for writing.
#[derive(Debug)]
pub struct SliceMut<'a, T> {
    address: u64,
    len: usize,
    memory: PhantomData<&'a mut [T]>,
}

macro_rules! slice_methods {
    ($name:ident) => {
        impl<T: Plain> $name<'_, T> {
            /// The `len` elements at `address`.
            ///
            /// # Safety
            /// They must be initialised device memory that lives as long as the slice, aligned for
            /// `T`; for writing, nobody else may use them in the meantime.
            #[must_use]
            pub unsafe fn from_raw_parts(address: u64, len: usize) -> Self {
                Self { address, len, memory: PhantomData }
            }

            /// The number of elements.
            #[must_use]
            pub fn len(&self) -> usize {
                self.len
            }

            /// Whether there are none.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.len == 0
            }

            pub(super) fn address(&self) -> u64 {
                self.address
            }

            /// The slice as kernels take it: its address.
            #[must_use]
            pub fn argument(&self) -> Argument<'_> {
                argument(&self.address)
            }

            /// Refuses a slice that vectors of `elements` cannot be read from.
            pub(super) fn check_aligned(&self, elements: usize) -> Result<(), CudaError> {
                let multiple = (elements * size_of::<T>()).clamp(1, 16) as u64;
                match self.address.is_multiple_of(multiple) {
                    true => Ok(()),
                    false => Err(CudaError::Misaligned { address: self.address, multiple }),
                }
            }
        }
    };
}
slice_methods!(Slice);
slice_methods!(SliceMut);

impl<T> SliceMut<'_, T> {
    /// The same elements, for reading.
    #[must_use]
    pub fn as_slice(&self) -> Slice<'_, T> {
        Slice { address: self.address, len: self.len, memory: PhantomData }
    }

    /// No memory at all: what a kernel takes for an output that is not wanted.
    #[must_use]
    pub(super) fn none() -> Self {
        Self { address: 0, len: 0, memory: PhantomData }
    }
}

/// One parameter of a launch: where its value lies in host memory.
#[derive(Clone, Copy, Debug)]
pub struct Argument<'a> {
    value: *const c_void,
    memory: PhantomData<&'a ()>,
}

impl Argument<'_> {
    /// The address of the value, as the driver takes it. The value is plain bytes, read during the
    /// launch.
    #[must_use]
    pub fn as_ptr(&self) -> *mut c_void {
        self.value.cast_mut()
    }
}

/// A value that is passed by itself.
pub(super) fn argument<T: Plain>(value: &T) -> Argument<'_> {
    Argument { value: std::ptr::from_ref(value).cast(), memory: PhantomData }
}

/// An engine with memory of its own, for checks and measurements; in training, memory is libtorch's.
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
        Slice { address: self.address, len: self.len, memory: PhantomData }
    }

    /// The elements, for a kernel to write.
    #[must_use]
    pub fn slice_mut(&mut self) -> SliceMut<'_, T> {
        SliceMut { address: self.address, len: self.len, memory: PhantomData }
    }
}

impl<T> Drop for Buffer<'_, T> {
    fn drop(&mut self) {
        // SAFETY: allocated with this length in `zeros`; slices of it have ended with their borrows.
        unsafe { self.machine.free(self.address, (self.len * size_of::<T>()).max(1)) }
    }
}
