//! Softmax cross-entropy (the paper's multinomial logistic regression, §3.5), and what is counted of
//! an evaluation.
//!
//! The loss is divided by the *global* batch where it is born, so sums over ranks are means over the
//! batch and nothing else has to know how many ranks there are.

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::cuda::engine;
use crate::elements::{by_kind, device_slice, device_slice_mut};
use crate::kernels::cuda;

/// The loss of a rank's share and its gradient.
pub struct Loss {
    /// This share's part of the mean loss over the global batch, in nats, a scalar.
    pub value: Tensor,
    /// With respect to the logits, `[N, classes]`, in the logits' kind.
    pub dlogits: Tensor,
}

/// At least fp32: losses are compared over thousands of steps.
fn wide(logits: &Tensor) -> Kind {
    if logits.kind() == Kind::Double { Kind::Double } else { Kind::Float }
}

/// The cross-entropy of `logits`, `[N, classes]`, against `labels`, `[N]`, over `global_batch` images.
///
/// # Errors
/// If libtorch refuses the shapes.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, global_batch: usize) -> Result<Loss> {
    let scale = 1.0 / global_batch as f64;
    if let Some(on) = engine(logits.device()) {
        let (logits, labels) = (logits.f_contiguous()?, labels.f_contiguous()?);
        let mut dlogits = logits.f_empty_like()?;
        let mut losses = Tensor::f_empty(labels.size(), (wide(&logits), logits.device()))?;
        by_kind!(logits.kind(), T => cuda::cross_entropy::cross_entropy::<T>(
            &on,
            device_slice(&logits),
            device_slice(&labels),
            &mut device_slice_mut(&mut dlogits),
            &mut device_slice_mut(&mut losses),
            scale,
        ))?;
        return Ok(Loss { value: losses.f_sum(losses.kind())?, dlogits });
    }
    let log_p = logits.f_log_softmax(-1, wide(logits))?;
    let at = labels.f_view([-1, 1])?;
    let value = log_p.f_gather(1, &at, false)?.f_sum(wide(logits))? * -scale;
    let mut dlogits = log_p.f_exp()?;
    let minus_one = Tensor::f_full_like(&at, -1.0)?.to_kind(dlogits.kind());
    let _ = dlogits.f_scatter_add_(1, &at, &minus_one)?;
    Ok(Loss { value, dlogits: (dlogits * scale).to_kind(logits.kind()) })
}

/// Class probabilities averaged over each image's views: `[N * views, classes]` to `[N, classes]`, in
/// fp32 or fp64 (paper §4.1).
///
/// # Errors
/// If the rows are not a multiple of the views.
pub fn mean_probabilities(logits: &Tensor, views: usize) -> Result<Tensor> {
    let size = logits.size();
    ensure!(size[0] % views as i64 == 0, "{} rows are not {views} views of each image", size[0]);
    let p = logits.f_softmax(-1, wide(logits))?;
    Ok(p.f_view([-1, views as i64, size[1]])?.f_mean_dim(&[1i64][..], false, None::<Kind>)?)
}

/// What an evaluation counts; tallies of shares add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Images seen.
    pub num_images: f64,
    /// Images whose most probable class is right.
    pub num_top1: f64,
    /// Images whose class is among the five most probable.
    pub num_top5: f64,
    /// Sum of cross-entropies, in nats.
    pub loss_sum: f64,
}

impl Tally {
    /// Counts images with class probabilities `p`, `[N, classes]`, and `labels`, `[N]`.
    ///
    /// # Errors
    /// If libtorch refuses the shapes.
    pub fn count(p: &Tensor, labels: &Tensor) -> Result<Self> {
        if p.size()[0] == 0 {
            return Ok(Self::default());
        }
        let at = labels.f_view([-1, 1])?;
        let of_label = p.f_gather(1, &at, false)?; // [N, 1]
        // The rank of the label: better classes, and equal ones with a lower index. A diverged
        // network's NaN compares as not better, so it must not count as right either.
        let classes = Tensor::f_arange(p.size()[1], (Kind::Int64, p.device()))?;
        let ties = p.f_eq_tensor(&of_label)?.f_logical_and(&classes.f_lt_tensor(&at)?)?;
        let better = p.f_gt_tensor(&of_label)?.f_logical_or(&ties)?;
        let rank = better.f_sum_dim_intlist(&[1i64][..], false, Kind::Int64)?;
        let finite = of_label.f_view([-1])?.f_isfinite()?;
        let within = |k: i64| -> Result<f64> {
            Ok(rank.f_lt(k)?.f_logical_and(&finite)?.f_sum(Kind::Int64)?.int64_value(&[]) as f64)
        };
        let tiny = f64::from(f32::MIN_POSITIVE);
        let loss = -of_label.f_clamp_min(tiny)?.f_log()?.f_sum(Kind::Double)?;
        Ok(Self {
            num_images: p.size()[0] as f64,
            num_top1: within(1)?,
            num_top5: within(5)?,
            loss_sum: loss.double_value(&[]),
        })
    }

    /// Top-1 accuracy, 0 to 1.
    #[must_use]
    pub fn top1(&self) -> f64 {
        self.num_top1 / self.num_images.max(1.0)
    }

    /// Top-5 accuracy, 0 to 1.
    #[must_use]
    pub fn top5(&self) -> f64 {
        self.num_top5 / self.num_images.max(1.0)
    }

    /// Mean cross-entropy, in nats.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.num_images.max(1.0)
    }

    /// The tally as `[4]` doubles, the form in which ranks add theirs up.
    pub fn to_tensor(&self, device: Device) -> Tensor {
        let values = [self.num_images, self.num_top1, self.num_top5, self.loss_sum];
        Tensor::from_slice(&values).to_device(device)
    }

    /// The inverse of [`Tally::to_tensor`].
    #[must_use]
    pub fn from_tensor(x: &Tensor) -> Self {
        let at = |i| x.double_value(&[i]);
        Self { num_images: at(0), num_top1: at(1), num_top5: at(2), loss_sum: at(3) }
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.num_images += other.num_images;
        self.num_top1 += other.num_top1;
        self.num_top5 += other.num_top5;
        self.loss_sum += other.loss_sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_and_gradient_equal_autograd() {
        let logits = Tensor::randn([6, 5], (Kind::Double, Device::Cpu)).set_requires_grad(true);
        let labels = Tensor::from_slice(&[0i64, 4, 2, 2, 1, 3]);
        let (none, mean) = (None::<Tensor>, tch::Reduction::Mean);
        let expected = logits.cross_entropy_loss(&labels, none, mean, -100, 0.0);
        expected.backward();
        let got = cross_entropy(&logits.detach(), &labels, 6).expect("shapes agree");
        let far = |a: Tensor, b: Tensor| (a - b).abs().max().double_value(&[]);
        let (value, gradient) = (far(got.value, expected), far(got.dlogits, logits.grad()));
        assert!(value < 1e-14 && gradient < 1e-14, "{value:e}, {gradient:e}");
    }

    #[test]
    fn ranks_are_counted_with_ties_broken_by_index_and_nan_never_right() {
        let p = Tensor::from_slice2(&[
            [0.1, 0.6, 0.1, 0.1, 0.05, 0.05],
            [0.3, 0.3, 0.1, 0.1, 0.1, 0.1],
            [0.5, 0.2, 0.1, 0.1, 0.05, 0.05],
            [f64::NAN; 6],
        ]);
        let labels = Tensor::from_slice(&[1i64, 1, 5, 0]);
        let tally = Tally::count(&p, &labels).expect("shapes agree");
        assert_eq!((tally.num_images, tally.num_top1, tally.num_top5), (4.0, 1.0, 2.0));
    }
}
