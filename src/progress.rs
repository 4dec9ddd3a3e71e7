//! What a person sees of a training run: a bar on a terminal, a line now and then elsewhere.
//!
//! It shows numbers that others measured. The lines go through the log, so that they reach the
//! run's log file in either case.

mod count;
mod logging;
mod terminal;

use indicatif::{ProgressBar, ProgressStyle};

pub use count::Count;
pub use logging::{LogFile, Screen, init_logging};

/// The log target of lines that the bar makes superfluous on a terminal.
pub(crate) const LINE_TARGET: &str = concat!(env!("CARGO_CRATE_NAME"), "::progress::line");

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLength {
    /// Steps in one pass over the training images; at least 1.
    pub steps_per_epoch: u64,
    /// Steps in all.
    pub total_steps: u64,
}

impl RunLength {
    /// The epoch, from 1, that the last of `num_steps` finished steps belongs to.
    #[must_use]
    pub fn epoch(&self, num_steps: u64) -> u64 {
        num_steps.max(1).div_ceil(self.steps_per_epoch.max(1))
    }

    /// The number of epochs, counting one that the run ends within.
    #[must_use]
    pub fn num_epochs(&self) -> u64 {
        self.epoch(self.total_steps)
    }

    /// `epoch 3/12  step 1200/4680`.
    fn place(&self, num_steps: u64) -> String {
        let (epoch, num_epochs) = (self.epoch(num_steps), self.num_epochs());
        format!("epoch {epoch}/{num_epochs}  step {num_steps}/{}", self.total_steps)
    }

    /// How many of an epoch's steps are finished, and how many it has.
    fn within_epoch(&self, num_steps: u64) -> (u64, u64) {
        let before = (self.epoch(num_steps) - 1) * self.steps_per_epoch;
        let rest = self.total_steps.saturating_sub(before);
        (num_steps - before, rest.min(self.steps_per_epoch))
    }
}

/// How training goes, averaged over some of the latest steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Status {
    /// Finished steps of the run.
    pub num_steps: u64,
    /// The mean loss.
    pub loss: f64,
    /// The learning rate of the last step.
    pub lr: f64,
    /// Images per second on all devices together.
    pub img_per_s: f64,
    /// The share of the time in which the devices waited for images.
    pub wait_share: f64,
    /// The mean duration of a step.
    pub step_ms: f64,
}

impl Status {
    /// `loss 1.234  lr 0.01  812 img/s  wait 2 %`.
    fn numbers(&self) -> String {
        format!(
            "loss {:.3}  lr {}  {:.0} img/s  wait {:.0} %",
            self.loss,
            three_digits(self.lr),
            self.img_per_s,
            100.0 * self.wait_share
        )
    }
}

/// The progress bar of one run; off the terminal, its lines. Dropping it removes the bar.
#[derive(Debug)]
pub struct Progress {
    length: RunLength,
    bar: ProgressBar,
}

impl Progress {
    /// A bar on `screen`, which appears with the first step.
    #[must_use]
    pub fn new(screen: &Screen, length: RunLength) -> Self {
        let bar = screen.bars.add(ProgressBar::new(length.steps_per_epoch).with_style(style()));
        Self { length, bar }
    }

    /// How long the run is.
    #[must_use]
    pub fn length(&self) -> RunLength {
        self.length
    }

    /// Draws a finished step.
    pub fn step(&self, status: &Status) {
        if self.bar.is_hidden() {
            return;
        }
        let (done, of) = self.length.within_epoch(status.num_steps);
        let (epoch, num_epochs) = (self.length.epoch(status.num_steps), self.length.num_epochs());
        self.bar.set_prefix(format!("epoch {epoch}/{num_epochs}"));
        self.bar.set_length(of);
        self.bar.set_position(done);
        let left = self.length.total_steps.saturating_sub(status.num_steps) as f64;
        let left_s = left * status.step_ms / 1000.0;
        self.bar.set_message(format!("{}  {} left", status.numbers(), duration(left_s)));
    }

    /// Logs a line about the latest steps.
    pub fn line(&self, status: &Status) {
        let place = self.length.place(status.num_steps);
        tracing::info!(target: LINE_TARGET, "{place}  {}", status.numbers());
    }

    /// Logs a result, which stays on the terminal too.
    pub fn result(&self, num_steps: u64, result: &str) {
        tracing::info!("{}  {result}", self.length.place(num_steps));
    }

    /// Says on the bar what happens in place of steps, such as `evaluating`.
    pub fn note(&self, doing: &str) {
        self.bar.set_message(doing.to_owned());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix}  {wide_bar} {pos}/{len}  {msg}")
        .expect("the template is constant and valid")
        .progress_chars("=> ")
}

/// A number rounded to three digits, without trailing zeros: a rate of 0.01 times 0.1 is 0.001.
fn three_digits(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

/// `12 s`, `4 min 05 s`, `3 h 12 min`, `2 d 03 h`.
fn duration(seconds: f64) -> String {
    // The cast saturates, and what is not a number becomes 0.
    let seconds = seconds.round() as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {:02} s", seconds % 60),
        3600..86400 => format!("{hours} h {:02} min", minutes % 60),
        _ => format!("{days} d {:02} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use indicatif::{MultiProgress, ProgressDrawTarget, TermLike};

    use super::*;

    const LENGTH: RunLength = RunLength { steps_per_epoch: 390, total_steps: 4680 };

    fn status(num_steps: u64) -> Status {
        let (loss, lr) = (1.2341, 0.01 * 0.1 * 0.1);
        Status { num_steps, loss, lr, img_per_s: 811.7, wait_share: 0.021, step_ms: 100.0 }
    }

    /// A terminal that shows nothing.
    #[derive(Debug)]
    struct Blind;

    #[rustfmt::skip]
    impl TermLike for Blind {
        fn width(&self) -> u16 { 100 }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> { Ok(()) }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> { Ok(()) }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> { Ok(()) }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> { Ok(()) }
        fn write_line(&self, _: &str) -> io::Result<()> { Ok(()) }
        fn write_str(&self, _: &str) -> io::Result<()> { Ok(()) }
        fn clear_line(&self) -> io::Result<()> { Ok(()) }
        fn flush(&self) -> io::Result<()> { Ok(()) }
    }

    #[test]
    fn an_epoch_ends_with_its_last_step() {
        assert_eq!([0, 1, 390, 391, 780, 4680].map(|step| LENGTH.epoch(step)), [1, 1, 1, 2, 2, 12]);
        assert_eq!(LENGTH.within_epoch(390), (390, 390));
        assert_eq!(LENGTH.within_epoch(391), (1, 390));
    }

    #[test]
    fn a_run_that_ends_within_an_epoch_has_a_shorter_last_one() {
        let length = RunLength { steps_per_epoch: 10, total_steps: 25 };
        assert_eq!((length.num_epochs(), length.within_epoch(25)), (3, (5, 5)));
    }

    #[test]
    fn a_line_has_the_place_and_the_numbers() {
        let line = format!("{}  {}", LENGTH.place(1000), status(1000).numbers());
        let expected = "epoch 3/12  step 1000/4680  loss 1.234  lr 0.0001  812 img/s  wait 2 %";
        assert_eq!(line, expected);
    }

    #[test]
    fn the_bar_shows_the_epoch_and_the_time_left_of_the_run() {
        let target = ProgressDrawTarget::term_like(Box::new(Blind));
        let screen = Screen { bars: MultiProgress::with_draw_target(target) };
        let progress = Progress::new(&screen, LENGTH);
        progress.step(&status(1000));
        let bar = &progress.bar;
        assert_eq!((bar.prefix().as_str(), bar.position()), ("epoch 3/12", 220));
        assert_eq!(bar.length(), Some(390));
        assert!(bar.message().starts_with("loss 1.234"), "{}", bar.message());
        assert!(bar.message().ends_with("  6 min 08 s left"), "{}", bar.message());
    }

    #[test]
    fn durations_have_two_units_at_most() {
        let texts = [0.4, 59.6, 3599.0, 11520.0, 183_600.0, f64::NAN].map(duration);
        assert_eq!(texts, ["0 s", "1 min 00 s", "59 min 59 s", "3 h 12 min", "2 d 03 h", "0 s"]);
    }

    #[test]
    fn a_number_is_shown_with_three_digits() {
        let texts = [0.1 * 0.1, 0.0123456, 1e-7, 3.0].map(|value| three_digits(value).to_string());
        assert_eq!(texts, ["0.01", "0.0123", "0.0000001", "3"]);
    }
}
