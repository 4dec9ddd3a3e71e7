//! How much memory batches take, and memory that is fast to fill and can be pinned.

use super::DataError;
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
///
/// # Errors
/// [`DataError::NoMemory`].
pub(crate) fn zeros<T: Clone + Default>(len: usize) -> Result<Vec<T>, DataError> {
    let room = len.saturating_add(GAP.div_ceil(size_of::<T>()));
    let num_bytes = room.saturating_mul(size_of::<T>());
    let mut vector = Vec::new();
    vector.try_reserve_exact(room).map_err(|_| DataError::NoMemory { num_bytes })?;
    large_pages::prefer(vector.spare_capacity_mut());
    vector.resize(len, T::default());
    Ok(vector)
}
