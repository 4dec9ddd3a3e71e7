//! How much memory batches take, and memory that is fast to fill and can be pinned.

use super::large_pages;

/// What an image takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Its views.
    pub(super) num_views: usize,
    /// The values of a view.
    pub(super) num_values: usize,
}

/// Room behind each vector, so that no two of them share a page: the largest of small pages, in bytes. A
/// page is pinned once, and large ones lie inside a vector.
const GAP: usize = 1 << 16;

/// `len` zeros, all written, of a vector that shares no page with the next, in large pages if it fills such.
pub(crate) fn zeros<T: Clone + Default>(len: usize) -> Vec<T> {
    let mut vector = Vec::with_capacity(len + GAP.div_ceil(size_of::<T>()));
    large_pages::prefer(vector.spare_capacity_mut());
    vector.resize(len, T::default());
    vector
}
