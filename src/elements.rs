//! The elements of a tensor as a slice, on the CPU or a GPU. FFI: the only file that makes one from a
//! tensor's raw pointer.
//!
//! Our kernels work on slices; this is where tensors become such. It knows kinds and lengths, and
//! neither shapes nor what is computed.
#![allow(unsafe_code)]

use half::bf16;
use tch::{Device, Kind, Tensor};

use crate::kernels::cuda::memory::{Plain, Slice, SliceMut};

/// Calls a kernel with the element type of a tensor's kind.
macro_rules! by_kind {
    ($kind:expr, $T:ident => $call:expr) => {
        match $kind {
            tch::Kind::Float => {
                type $T = f32;
                $call
            }
            tch::Kind::Double => {
                type $T = f64;
                $call
            }
            tch::Kind::BFloat16 => {
                type $T = half::bf16;
                $call
            }
            other => anyhow::bail!("no kernel for elements of kind {other:?}"),
        }
    };
}
pub(crate) use by_kind;

/// An element type whose tensors can be seen as a slice.
pub trait Element: Plain {
    /// The matching libtorch kind.
    const KIND: Kind;
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;
}

impl Element for f64 {
    const KIND: Kind = Kind::Double;
}

impl Element for bf16 {
    const KIND: Kind = Kind::BFloat16;
}

impl Element for i32 {
    const KIND: Kind = Kind::Int;
}

impl Element for i64 {
    const KIND: Kind = Kind::Int64;
}

impl Element for u8 {
    const KIND: Kind = Kind::Uint8;
}

fn assert_sliceable<T: Element>(tensor: &Tensor) {
    assert!(
        tensor.device() == Device::Cpu && tensor.kind() == T::KIND && tensor.is_contiguous(),
        "a contiguous CPU tensor of {:?} was expected, found {:?} on {:?}",
        T::KIND,
        tensor,
        tensor.device(),
    );
}

/// The elements of a contiguous CPU tensor.
///
/// # Panics
/// If the tensor lives elsewhere, has another kind, or is not contiguous.
#[must_use]
pub fn slice<T: Element>(tensor: &Tensor) -> &[T] {
    assert_sliceable::<T>(tensor);
    if tensor.numel() == 0 {
        return &[];
    }
    // SAFETY: the storage holds numel elements of this kind and lives as long as the borrow. Where threads share a
    // storage (what collectives lend, the weights of replicas) they meet at a gate between one's writing of a range
    // and another's reading of it, and write ranges that do not overlap.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<T>(), tensor.numel()) }
}

/// The elements of a contiguous CPU tensor, for writing.
///
/// # Panics
/// As [`slice()`].
#[must_use]
pub fn slice_mut<T: Element>(tensor: &mut Tensor) -> &mut [T] {
    assert_sliceable::<T>(tensor);
    if tensor.numel() == 0 {
        return &mut [];
    }
    // SAFETY: as in `slice`; the exclusive borrow of this handle, and the rule that no other view of
    // the range is held as a slice at the same time, make the access exclusive.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<T>(), tensor.numel()) }
}

/// A CPU tensor with a copy of `elements`. tch's own `from_slice` takes the bits of a bf16 for those of
/// an fp16 (tch 0.24).
///
/// # Errors
/// If there is no memory left.
pub fn tensor_of<T: Element>(elements: &[T]) -> Result<Tensor, tch::TchError> {
    let mut tensor = Tensor::f_empty([elements.len() as i64], (T::KIND, Device::Cpu))?;
    slice_mut(&mut tensor).copy_from_slice(elements);
    Ok(tensor)
}

fn assert_on_gpu<T: Element>(tensor: &Tensor) {
    assert!(
        matches!(tensor.device(), Device::Cuda(_))
            && tensor.kind() == T::KIND
            && tensor.is_contiguous(),
        "a contiguous CUDA tensor of {:?} was expected, found {:?} on {:?}",
        T::KIND,
        tensor,
        tensor.device(),
    );
}

/// The elements of a contiguous CUDA tensor, for a kernel on the stream libtorch uses.
///
/// # Panics
/// If the tensor lives elsewhere, has another kind, or is not contiguous.
#[must_use]
pub fn device_slice<T: Element>(tensor: &Tensor) -> Slice<'_, T> {
    assert_on_gpu::<T>(tensor);
    // SAFETY: the storage holds numel elements of this kind. A kernel may run after the borrow ends;
    // libtorch reuses freed memory only for work that comes later on the same stream.
    unsafe { Slice::from_raw_parts(tensor.data_ptr() as u64, tensor.numel()) }
}

/// The elements of a contiguous CUDA tensor, for a kernel to write.
///
/// # Panics
/// As [`device_slice`].
#[must_use]
pub fn device_slice_mut<T: Element>(tensor: &mut Tensor) -> SliceMut<'_, T> {
    assert_on_gpu::<T>(tensor);
    // SAFETY: as in `device_slice`; work on one stream is done in order, so what others read of the
    // storage they read before or after the kernel.
    unsafe { SliceMut::from_raw_parts(tensor.data_ptr() as u64, tensor.numel()) }
}

/// The bytes of a contiguous CPU tensor, in memory order.
///
/// # Panics
/// If the tensor lives elsewhere or is not contiguous.
#[must_use]
pub fn bytes(tensor: &Tensor) -> &[u8] {
    match num_bytes(tensor) {
        0 => &[],
        // SAFETY: the storage holds len initialised bytes and lives as long as the borrow.
        len => unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<u8>(), len) },
    }
}

/// The bytes of a contiguous CPU tensor, for writing whole elements.
///
/// # Panics
/// As [`bytes`].
#[must_use]
pub fn bytes_mut(tensor: &mut Tensor) -> &mut [u8] {
    match num_bytes(tensor) {
        0 => &mut [],
        // SAFETY: as in `bytes`; exclusive as in `slice_mut`.
        len => unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<u8>(), len) },
    }
}

fn num_bytes(tensor: &Tensor) -> usize {
    assert!(
        tensor.device() == Device::Cpu && tensor.is_contiguous(),
        "{tensor:?} is not in memory"
    );
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_the_tensors_own_memory() {
        let mut x = Tensor::from_slice(&[1.0f32, 2.0, 3.0]);
        slice_mut::<f32>(&mut x)[1] = 5.0;
        assert_eq!(slice::<f32>(&x), [1.0, 5.0, 3.0]);
        assert_eq!(bytes(&x).len(), 12);
        assert!(slice::<f32>(&x.narrow(0, 0, 0)).is_empty());
    }

    #[test]
    fn a_tensor_of_bf16_has_their_values() {
        let tensor = tensor_of(&[bf16::from_f32(39.0), bf16::from_f32(-0.5)]).expect("memory");
        assert_eq!(tensor.to_kind(Kind::Float), Tensor::from_slice(&[39.0f32, -0.5]));
    }

    #[test]
    #[should_panic(expected = "contiguous CPU tensor of Float")]
    fn another_kind_is_refused() {
        let _ = slice::<f32>(&Tensor::from_slice(&[1i64]));
    }

    #[test]
    #[should_panic(expected = "contiguous CPU tensor")]
    fn a_tensor_with_gaps_is_refused() {
        let _ = slice::<f32>(&Tensor::from_slice(&[0.0f32; 6]).view([2, 3]).tr());
    }
}
