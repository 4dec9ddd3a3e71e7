//! A layer's bias, one number for each channel: how it is added, and its gradient. The twins of the GPU's kernels.
//!
//! On CPUs libtorch's convolutions and products do both at no cost; on GPUs they take passes over memory
//! of their own, which `bias.cu` saves. Layers are not known here.

use super::real::{Real, Wide};

/// Adds `bias` to each row of `a`, [rows, channels], rounding each sum to an element.
///
/// # Panics
/// If `a` is not rows of as many channels as there are biases.
pub fn add<T: Real>(a: &mut [T], bias: &[T]) {
    check(a.len(), bias.len());
    for row in a.chunks_exact_mut(bias.len()) {
        for (a, bias) in row.iter_mut().zip(bias) {
            *a = T::narrow(a.widen() + bias.widen());
        }
    }
}

/// The gradient of the bias: the sums over all rows of `da`, [rows, channels], rounded once.
///
/// # Panics
/// As [`add`].
pub fn gradient<T: Real>(da: &[T], db: &mut [T]) {
    check(da.len(), db.len());
    let mut sums = vec![<T::Wide as Wide>::from_f64(0.0); db.len()];
    for row in da.chunks_exact(db.len()) {
        for (sum, da) in sums.iter_mut().zip(row) {
            *sum = *sum + da.widen();
        }
    }
    for (db, sum) in db.iter_mut().zip(sums) {
        *db = T::narrow(sum);
    }
}

/// The number of rows.
pub(super) fn check(num_elements: usize, num_channels: usize) -> usize {
    assert!(
        num_channels > 0 && num_elements.is_multiple_of(num_channels),
        "bias: {num_elements} elements are not rows of {num_channels} channels"
    );
    num_elements / num_channels
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn every_row_gets_the_bias_and_gives_to_its_gradient() {
        let mut a = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        add(&mut a, &[10.0, 20.0, 30.0]);
        assert_eq!(a, [11.0, 22.0, 33.0, 14.0, 25.0, 36.0]);
        let mut db = [0.0; 3];
        gradient(&a, &mut db);
        assert_eq!(db, [25.0, 47.0, 69.0]);
    }

    #[test]
    fn sums_are_rounded_once() {
        // 256 + 1 + 1 is 258 in bf16; with a rounding after each addition it would stay 256.
        let [large, one] = [256.0, 1.0].map(bf16::from_f32);
        let mut db = [bf16::ZERO];
        gradient(&[large, one, one], &mut db);
        assert_eq!(db[0].to_f32(), 258.0);
        let mut a = [large];
        add(&mut a, &[one]);
        assert_eq!(a[0], large);
    }

    #[test]
    #[should_panic(expected = "7 elements are not rows of 3 channels")]
    fn rows_that_are_not_whole_are_refused() {
        gradient(&[1.0f32; 7], &mut [0.0; 3]);
    }
}
