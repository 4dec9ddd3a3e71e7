//! How the channels of maps lie in memory: side by side, `[N, H, W, C]`, or stacked by groups,
//! `[S * N, H, W, C / S]`, all images of the first group before those of the next.

/// The number of stacks on each side of a layer; one where channels lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stacks {
    /// Of its input and the gradient of that.
    pub input: usize,
    /// Of its output and the gradient of that.
    pub output: usize,
}

impl Stacks {
    /// Those of most layers.
    pub const ONE: Self = Self { input: 1, output: 1 };
}
