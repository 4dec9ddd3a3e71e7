//! What the decoder of regions says of files that another decoder has to take.

/// Not a baseline JPEG of a usual layout, or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unsupported;
