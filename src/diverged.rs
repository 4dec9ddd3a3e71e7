//! The end of a run whose loss is no number any more.

/// The loss stopped being a number. Where it is read a step late, updates have been made with it: the
/// weights are of no use then, and are not saved.
#[derive(Debug, thiserror::Error)]
#[error(
    "the loss of step {step} is {loss}; the first layer that is not finite: {layer}. Lower --lr, \
     lengthen schedule.warmup_epochs, or resume from an earlier checkpoint"
)]
pub struct Diverged {
    /// Which step.
    pub step: u64,
    /// What the loss is instead.
    pub loss: f64,
    /// What to blame, in words.
    pub layer: String,
}
