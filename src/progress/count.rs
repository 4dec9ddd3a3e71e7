//! How far a command has come through many equal things: a bar on a terminal, else a line now and
//! then.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::{LINE_TARGET, Screen, duration, style};

/// Between two lines where there is no bar.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Between two changes of a bar.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// The progress of one command. Dropping it removes the bar.
#[derive(Debug)]
pub struct Count {
    /// What happens to the images: "packed", "checked".
    verb: &'static str,
    tally: Tally,
    begun: Instant,
    last_shown: Instant,
    bar: ProgressBar,
}

/// Images.
#[derive(Clone, Copy, Debug)]
struct Tally {
    done: u64,
    /// Done before this command.
    before: u64,
    total: u64,
}

impl Tally {
    /// `1180 img/s  17 min 55 s left`.
    fn pace(&self, elapsed: Duration) -> String {
        let rate = (self.done - self.before) as f64 / elapsed.as_secs_f64().max(1e-3);
        let left_s = self.total.saturating_sub(self.done) as f64 / rate;
        format!("{rate:.0} img/s  {} left", duration(left_s))
    }
}

impl Count {
    /// A count of images up to `total`, of which `before` are done already.
    #[must_use]
    pub fn new(screen: &Screen, verb: &'static str, before: u64, total: u64) -> Self {
        let bar = screen.bars.add(ProgressBar::new(total).with_style(style()).with_prefix(verb));
        let now = Instant::now();
        let tally = Tally { done: before, before, total };
        Self { verb, tally, begun: now, last_shown: now, bar }
    }

    /// Counts `num` more images.
    pub fn advance(&mut self, num: u64) {
        self.tally.done += num;
        let Tally { done, total, .. } = self.tally;
        let interval = if self.bar.is_hidden() { LINE_INTERVAL } else { BAR_INTERVAL };
        if self.last_shown.elapsed() < interval {
            return;
        }
        self.last_shown = Instant::now();
        let pace = self.tally.pace(self.begun.elapsed());
        if !self.bar.is_hidden() {
            self.bar.set_position(done);
            self.bar.set_message(pace);
        } else {
            tracing::info!(target: LINE_TARGET, "{} {done}/{total} images  {pace}", self.verb);
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_counts_only_what_this_command_did() {
        let tally = Tally { done: 700, before: 500, total: 1500 };
        assert_eq!(tally.pace(Duration::from_secs(2)), "100 img/s  8 s left");
    }

    #[test]
    fn nothing_done_yet_has_no_end_in_sight_and_does_not_panic() {
        let tally = Tally { done: 0, before: 0, total: 10 };
        assert!(tally.pace(Duration::ZERO).starts_with("0 img/s"));
    }
}
