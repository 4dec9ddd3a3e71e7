//! How much memory batches take, and memory that can be pinned.

/// What an image takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Its views.
    pub(super) num_views: usize,
    /// The values of a view.
    pub(super) num_values: usize,
}

/// Room behind each vector, so that no two of them share a page: the largest page, in bytes. A page is
/// pinned once.
const GAP: usize = 1 << 16;

/// `len` zeros of a vector that shares no page with the next.
pub(super) fn zeros<T: Clone + Default>(len: usize) -> Vec<T> {
    let mut vector = Vec::with_capacity(len + GAP.div_ceil(size_of::<T>()));
    vector.resize(len, T::default());
    vector
}
