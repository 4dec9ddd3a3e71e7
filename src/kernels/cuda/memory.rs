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

impl<T> Slice<'_, T> {
    /// No memory at all: what a kernel takes for an input that is not there.
    #[must_use]
    pub(super) fn none() -> Self {
        Self { address: 0, len: 0, memory: PhantomData }
    }
}

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
