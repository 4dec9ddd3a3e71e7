//! Stores that bypass the cache, for memory that is filled once and read much later, and loads ahead
//! of time. FFI: the processor's non-temporal stores and prefetches.
//!
//! An ordinary store first fetches the line it will overwrite; streaming whole lines halves the
//! traffic. On processors other than x86-64 these are ordinary stores, and nothing is loaded ahead.
//! The module does not know what is stored.
#![allow(unsafe_code)]

/// A cache line of `f32`.
#[repr(C, align(64))]
pub(crate) struct Line([f32; LINE]);

/// The `f32` of a cache line.
pub(crate) const LINE: usize = 16;

/// Permission to stream. What was streamed is visible to other threads, by the usual means of
/// synchronisation, once this is dropped.
pub(crate) struct Stream(());

impl Stream {
    pub(crate) fn begin() -> Self {
        Self(())
    }

    /// Replaces `line` by `values`.
    #[inline(always)]
    pub(crate) fn store(&self, line: &mut Line, values: [f32; LINE]) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{__m128, _mm_stream_ps};
            // SAFETY: both are arrays of 64 bytes for which every bit pattern is valid.
            let parts: [__m128; 4] = unsafe { std::mem::transmute(values) };
            for (to, part) in line.0.as_chunks_mut::<4>().0.iter_mut().zip(parts) {
                // SAFETY: `to` is 16 bytes, writable, and at a multiple of 16 from the line's
                // start, which is aligned to 64. SSE is part of x86-64. `Drop` fences.
                unsafe { _mm_stream_ps(to.as_mut_ptr(), part) }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            line.0 = values;
        }
    }
}

impl Stream {
    /// Copies bytes to a slice as long: its whole lines past the cache, what lies before and after
    /// them as usual.
    #[inline(always)]
    pub(crate) fn copy(&self, from: &[u8], to: &mut [u8]) {
        // SAFETY: a line is 64 bytes without padding, for which every bit pattern is valid.
        let (head, lines, tail) = unsafe { to.align_to_mut::<Line>() };
        let (before, from) = from.split_at(head.len());
        let (body, after) = from.split_at(size_of_val(lines));
        head.copy_from_slice(before);
        for (line, block) in lines.iter_mut().zip(body.as_chunks::<{ size_of::<Line>() }>().0) {
            // SAFETY: both are 64 bytes for which every bit pattern is valid.
            self.store(line, unsafe { std::mem::transmute::<[u8; 64], [f32; LINE]>(*block) });
        }
        tail.copy_from_slice(after);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE is part of x86-64.
        unsafe {
            std::arch::x86_64::_mm_sfence();
        }
    }
}

/// Asks for `slice` to be brought into the cache: for accesses that no processor expects.
#[inline(always)]
pub(crate) fn prefetch<T>(slice: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..size_of_val(slice)).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(slice.as_ptr().cast::<i8>().wrapping_add(offset)) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = slice;
}

/// `slice` as what comes before its first whole line, its lines, and the rest.
#[inline(always)]
pub(crate) fn lines(slice: &mut [f32]) -> (&mut [f32], &mut [Line], &mut [f32]) {
    // SAFETY: a line is an array of `f32`, for which every bit pattern is valid.
    unsafe { slice.align_to_mut() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_copied_wherever_lines_begin() {
        let from: Vec<u8> = (0..=255).collect();
        for (start, len) in [(0, 0), (0, 256), (5, 250), (63, 66), (1, 30), (64, 64)] {
            let mut all = vec![7u8; 400];
            let stream = Stream::begin();
            stream.copy(&from[..len], &mut all[start..start + len]);
            drop(stream);
            assert_eq!(all[start..start + len], from[..len], "{len} bytes from {start}");
            assert!(all[..start].iter().chain(&all[start + len..]).all(|&byte| byte == 7));
        }
    }

    #[test]
    fn lines_lie_between_the_ends_and_take_what_is_streamed() {
        for (start, len) in [(0, 0), (0, 64), (3, 100), (15, 20), (1, 7)] {
            let mut all = vec![-1.0f32; 128];
            let (head, body, tail) = lines(&mut all[start..start + len]);
            let lens = [head.len(), body.len() * LINE, tail.len()];
            assert_eq!(lens.iter().sum::<usize>(), len);
            assert!(head.len() < LINE && tail.len() < LINE || body.is_empty());
            head.fill(0.0);
            tail.fill(0.0);
            let stream = Stream::begin();
            for line in body {
                stream.store(line, std::array::from_fn(|i| i as f32));
            }
            drop(stream);
            let expected = (0..len).map(|i| {
                let inside = (lens[0]..lens[0] + lens[1]).contains(&i);
                if inside { ((i - lens[0]) % LINE) as f32 } else { 0.0 }
            });
            assert!(expected.eq(all[start..start + len].iter().copied()));
            assert!(all[..start].iter().chain(&all[start + len..]).all(|&x| x == -1.0));
        }
    }
}
