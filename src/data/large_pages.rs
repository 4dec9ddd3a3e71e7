//! Memory in large pages, where the system has them. FFI: its advice on memory.
//!
//! Batches are written once, past the cache, and read once, so that looking up a small page is paid for
//! by a few kilobytes only. What the memory holds is not known here.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

/// The large page of x86-64 and of most other processors, and a multiple of every small one, in bytes.
const LARGE_PAGE: usize = 2 << 20;

/// Asks for large pages under all of `memory` that fills such, before it is first written. The system
/// may decline, and does not say so.
pub(super) fn prefer<T>(memory: &mut [MaybeUninit<T>]) {
    let start = memory.as_ptr().addr();
    let inside = start.next_multiple_of(LARGE_PAGE)..start + size_of_val(memory);
    let len = inside.len() / LARGE_PAGE * LARGE_PAGE;
    #[cfg(target_os = "linux")]
    if len > 0 {
        let first = memory.as_mut_ptr().wrapping_byte_add(inside.start - start);
        // SAFETY: the pages lie inside the memory, and the advice changes no byte of them.
        unsafe {
            libc::madvise(first.cast(), len, libc::MADV_HUGEPAGE);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (inside, len);
}
