//! The end of a run whose loss is no number any more, and of what is asked of its network.

/// A loss or an answer is not a number.
#[derive(Debug, thiserror::Error)]
pub enum Diverged {
    /// The loss of a training step. Where it is read a step late, updates have been made with it: the weights
    /// are of no use then, and are not saved.
    #[error(
        "the loss of step {step} is {loss}; the first layer that is not finite: {layer}. Lower --lr, \
         lengthen schedule.warmup_epochs, or resume from an earlier checkpoint if there is one"
    )]
    Step {
        /// Which step.
        step: u64,
        /// What the loss is instead.
        loss: f64,
        /// What to blame, in words.
        layer: String,
    },
    /// The loss over the test images: the last updates have made the weights too large. They are not saved.
    #[error(
        "the loss over the test images is {loss} after {num_steps} steps. Lower --lr, lengthen \
         schedule.warmup_epochs, or resume from an earlier checkpoint if there is one"
    )]
    Test {
        /// How many steps have been made.
        num_steps: u64,
        /// What the loss is instead.
        loss: f64,
    },
    /// Weights or the optimizer's state, where the loss was still finite and gradients were not.
    #[error(
        "{tensor} is not finite after {num_steps} steps, which are not saved. Lower --lr, lengthen \
         schedule.warmup_epochs, or resume from an earlier checkpoint if there is one"
    )]
    State {
        /// How many steps have been made.
        num_steps: u64,
        /// The first tensor that is not finite.
        tensor: String,
    },
    /// What a trained network answers.
    #[error(
        "the model's answers are not numbers: its training had diverged. Use an earlier checkpoint, or \
         train again with a lower --lr"
    )]
    Model,
}
