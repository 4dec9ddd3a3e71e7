//! The arithmetic of local response normalisation on a run of channel groups.
//!
//! Groups are laid out one after another in a small buffer with zeros between them, so that every
//! step is one long loop over the buffer: a loop of its own for each 48 channels would spend most of
//! its time before and after its vector part. The module does not know what a pixel or an image is.

use super::real::{Real, Wide};
use super::simd::convert;

/// The size that the buffers aim at, in elements; the four of them stay in the first-level cache.
const TILE: usize = 1024;

/// b_i = a_i / (k + alpha * sum of a_j^2 over |j - i| <= size / 2)^beta, with j within i's group.
///
/// `alpha` is not divided by `size`, as in the paper (and unlike PyTorch's function). `k` must be
/// positive and `alpha` not negative.
///
/// A NaN makes NaN of every output whose window holds it; an infinity makes NaN of its own output
/// and zero of its neighbours'.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lrn {
    /// n, the number of channels in a window; odd.
    pub size: usize,
    /// The weight of the sum of squares.
    pub alpha: f64,
    /// The power of the denominator.
    pub beta: f64,
    /// The constant of the denominator.
    pub k: f64,
}

impl Lrn {
    /// The constants of the paper.
    pub const PAPER: Self = Self { size: 5, alpha: 1e-4, beta: 0.75, k: 2.0 };

    /// Whether beta is the paper's 3/4, which roots give without a general power.
    pub(super) fn has_three_quarters(&self) -> bool {
        self.beta == 0.75
    }

    /// Refuses a window without a middle.
    pub(super) fn check_size(&self) {
        assert!(self.size % 2 == 1, "lrn: the window of {} channels has no middle", self.size);
    }
}

/// What is applied to each element before it is normalised.
pub(super) trait Activation {
    /// The activation of `a`.
    fn of<W: Wide>(a: W) -> W;
    /// The gradient of the input, given its activation and the gradient of that.
    fn gradient<W: Wide>(activation: W, gradient: W) -> W;
}

/// No activation.
pub(super) enum Identity {}

impl Activation for Identity {
    #[inline(always)]
    fn of<W: Wide>(a: W) -> W {
        a
    }
    #[inline(always)]
    fn gradient<W: Wide>(_: W, gradient: W) -> W {
        gradient
    }
}

/// max(a, 0), with NaN for NaN.
pub(super) enum Relu {}

impl Activation for Relu {
    #[inline(always)]
    fn of<W: Wide>(a: W) -> W {
        if a <= W::ZERO { W::ZERO } else { a }
    }
    #[inline(always)]
    fn gradient<W: Wide>(activation: W, gradient: W) -> W {
        if activation == W::ZERO { W::ZERO } else { gradient }
    }
}

/// The power of the denominator.
trait Power<W> {
    /// (d^-beta, d^(-beta - 1)).
    fn of(&self, d: W) -> (W, W);
}

/// beta = 3/4, by the inverse fourth root.
struct ThreeQuarters;

impl<W: Wide> Power<W> for ThreeQuarters {
    #[inline(always)]
    fn of(&self, d: W) -> (W, W) {
        let root = d.inverse_fourth_root();
        let square = root * root;
        let cube = square * root;
        (cube, cube * (square * square))
    }
}

/// Any other beta.
struct General<W>(W);

impl<W: Wide> Power<W> for General<W> {
    #[inline(always)]
    fn of(&self, d: W) -> (W, W) {
        let power = d.powf(W::ZERO - self.0);
        (power, power / d)
    }
}

/// The constants of a normalisation and its buffers.
///
/// In every buffer a group is followed by a gap of `reach` elements; in the one a window slides over
/// a gap also comes first. The gaps of the activations and of what is slid over are zeros.
pub(super) struct Normaliser<W> {
    size: usize,
    reach: usize,
    group_channels: usize,
    alpha: W,
    beta: W,
    /// The paper's exponent gets loops of its own, which have no call.
    three_quarters: bool,
    k: W,
    /// 2 alpha beta.
    cross: W,
    activations: Vec<W>,
    gradients: Vec<W>,
    sums: Vec<W>,
    /// Slid over: squares, later the products of the gradient.
    padded: Vec<W>,
}

impl<W: Wide> Normaliser<W> {
    pub(super) fn new(lrn: &Lrn, group_channels: usize) -> Self {
        lrn.check_size();
        let reach = lrn.size / 2;
        let pitch = group_channels + reach;
        let length = (TILE / pitch).max(1) * pitch;
        Self {
            size: lrn.size,
            reach,
            group_channels,
            alpha: W::from_f64(lrn.alpha),
            beta: W::from_f64(lrn.beta),
            three_quarters: lrn.has_three_quarters(),
            k: W::from_f64(lrn.k),
            cross: W::from_f64(2.0 * lrn.alpha * lrn.beta),
            activations: vec![W::ZERO; length],
            gradients: vec![W::ZERO; length],
            sums: vec![W::ZERO; length],
            padded: vec![W::ZERO; length + 2 * reach],
        }
    }

    /// The number of elements of `x` that fill the buffers.
    fn tile(&self) -> usize {
        self.activations.len() / (self.group_channels + self.reach) * self.group_channels
    }

    /// Normalises the activations of `x` into `y`, both whole groups.
    #[inline(always)]
    pub(super) fn forward<T: Real<Wide = W>, A: Activation>(&mut self, x: &[T], y: &mut [T]) {
        let tile = self.tile();
        for (x, y) in x.chunks(tile).zip(y.chunks_mut(tile)) {
            let length = self.square::<T, A>(x);
            if self.three_quarters {
                self.scale(length, &ThreeQuarters);
            } else {
                self.scale(length, &General(self.beta));
            }
            self.collect(y);
        }
    }

    /// The gradient `dx` of `x` from the gradient `dy` of the output, all whole groups.
    #[inline(always)]
    pub(super) fn backward<T: Real<Wide = W>, A: Activation>(
        &mut self,
        x: &[T],
        dy: &[T],
        dx: &mut [T],
    ) {
        let tile = self.tile();
        for ((x, dy), dx) in x.chunks(tile).zip(dy.chunks(tile)).zip(dx.chunks_mut(tile)) {
            let length = self.square::<T, A>(x);
            spread(dy, &mut self.gradients, self.group_channels, self.reach, |dy| dy.widen());
            if self.three_quarters {
                self.differentiate(length, &ThreeQuarters);
            } else {
                self.differentiate(length, &General(self.beta));
            }
            self.subtract_cross_terms::<A>(length);
            self.collect(dx);
        }
    }

    /// Fills the activations and the sums of their squares; returns the length of both.
    #[inline(always)]
    fn square<T: Real<Wide = W>, A: Activation>(&mut self, x: &[T]) -> usize {
        spread(x, &mut self.activations, self.group_channels, self.reach, |x| A::of(x.widen()));
        let length = x.len() / self.group_channels * (self.group_channels + self.reach);
        for (square, a) in self.padded[self.reach..].iter_mut().zip(&self.activations[..length]) {
            *square = *a * *a;
        }
        slide(&self.padded, &mut self.sums[..length], self.size);
        length
    }

    /// Replaces the sums by the output.
    #[inline(always)]
    fn scale(&mut self, length: usize, power: &impl Power<W>) {
        let (k, alpha) = (self.k, self.alpha);
        for (sum, a) in self.sums[..length].iter_mut().zip(&self.activations) {
            *sum = *a * power.of(k + alpha * *sum).0;
        }
    }

    /// Replaces the gradients by dy d^-beta and the squares by dy a d^(-beta - 1).
    #[inline(always)]
    fn differentiate(&mut self, length: usize, power: &impl Power<W>) {
        let (k, alpha) = (self.k, self.alpha);
        let inputs = self.activations[..length].iter().zip(&self.sums);
        let outputs = self.gradients.iter_mut().zip(&mut self.padded[self.reach..]);
        for ((a, sum), (gradient, product)) in inputs.zip(outputs) {
            let (power, next_power) = power.of(k + alpha * *sum);
            *product = *gradient * *a * next_power;
            *gradient = *gradient * power;
        }
        // A denominator in a gap may be NaN, and so its product with zero.
        let slots = self.padded[self.reach..].chunks_exact_mut(self.group_channels + self.reach);
        slots.for_each(|slot| slot[self.group_channels..].fill(W::ZERO));
    }

    /// Replaces the sums by the gradient of the input.
    #[inline(always)]
    fn subtract_cross_terms<A: Activation>(&mut self, length: usize) {
        slide(&self.padded, &mut self.sums[..length], self.size);
        let cross = self.cross;
        let terms = self.activations.iter().zip(&self.gradients);
        for (sum, (a, gradient)) in self.sums[..length].iter_mut().zip(terms) {
            *sum = A::gradient(*a, *gradient - cross * *a * *sum);
        }
    }

    /// Rounds what replaced the sums into `y`.
    #[inline(always)]
    fn collect<T: Real<Wide = W>>(&self, y: &mut [T]) {
        let slots = self.sums.chunks_exact(self.group_channels + self.reach);
        for (y, slot) in y.chunks_exact_mut(self.group_channels).zip(slots) {
            convert(&slot[..self.group_channels], y, T::narrow);
        }
    }
}

/// Writes `f` of the groups of `x` into `slots`, leaving the gaps alone.
#[inline(always)]
fn spread<T: Copy, W: Copy>(
    x: &[T],
    slots: &mut [W],
    group_channels: usize,
    reach: usize,
    f: impl Fn(T) -> W,
) {
    let slots = slots.chunks_exact_mut(group_channels + reach);
    for (x, slot) in x.chunks_exact(group_channels).zip(slots) {
        convert(x, &mut slot[..group_channels], &f);
    }
}

/// `sums[i] = padded[i] + ... + padded[i + size - 1]`.
#[inline(always)]
fn slide<W: Wide>(padded: &[W], sums: &mut [W], size: usize) {
    let length = sums.len();
    if size == 5 {
        let from = |offset: usize| padded[offset..][..length].iter();
        let terms = from(0).zip(from(1)).zip(from(2)).zip(from(3)).zip(from(4));
        for (sum, ((((a, b), c), d), e)) in sums.iter_mut().zip(terms) {
            *sum = *a + *b + *c + *d + *e;
        }
        return;
    }
    sums.copy_from_slice(&padded[..length]);
    for offset in 1..size {
        for (sum, a) in sums.iter_mut().zip(&padded[offset..]) {
            *sum = *sum + *a;
        }
    }
}
