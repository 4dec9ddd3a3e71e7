//! When to stop, agreed by all ranks without waiting for one another.
//!
//! A rank that stopped one step before its peers would leave them waiting in a collective. So the
//! first rank that notices a request fixes the step to stop at: the one after the latest that any
//! rank has started. Everyone finishes the steps before it. Nothing here knows what a step does, or
//! saves.

use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

/// What a rank does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Go {
    /// The step.
    Continue,
    /// Nothing more: all ranks stop before this step.
    Stop,
}

/// A shared request to stop. Clones are the same request.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// One more than the latest step that any rank has started.
    next: u64,
    stop_at: Option<u64>,
    signal: Option<i32>,
}

impl Stop {
    /// Asks whether to do `step`. Each rank asks before each of its steps, in order.
    pub fn begin(&self, step: u64) -> Go {
        let mut state = self.lock();
        if state.signal.is_some() && state.stop_at.is_none() {
            state.stop_at = Some(state.next.max(step));
        }
        if state.stop_at.is_some_and(|stop_at| step >= stop_at) {
            return Go::Stop;
        }
        state.next = state.next.max(step + 1);
        Go::Continue
    }

    /// Makes all ranks stop at the same step, soon. The first `signal` is the one remembered.
    pub fn request(&self, signal: i32) {
        self.lock().signal.get_or_insert(signal);
    }

    /// Whether ranks were stopped with some of their `num_steps` steps undone.
    #[must_use]
    pub fn stopped_before(&self, num_steps: u64) -> bool {
        self.lock().stop_at.is_some_and(|stop_at| stop_at < num_steps)
    }

    /// The signal that asked for the stop, if any.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.lock().signal
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the first SIGINT, SIGTERM or SIGHUP a request to stop, and a SIGINT or SIGTERM behind it the
/// end of the process with code 128 + signal (130, 143). A terminal that closes may send SIGHUP twice, so
/// that ends nothing; where whoever started the process has it ignored, as `nohup` does, it stays so.
///
/// # Errors
/// If the system refuses a handler or the thread that waits for signals.
pub fn install_signals(stop: Stop) -> Result<()> {
    let notice = "stopping after this step; the checkpoint will be saved; press Ctrl-C again to \
                  leave now";
    install_signals_saying(stop, notice)
}

/// As [`install_signals`], for commands that have no steps: the log says `notice` on a request.
///
/// # Errors
/// As [`install_signals`].
pub fn install_signals_saying(stop: Stop, notice: &'static str) -> Result<()> {
    let requested = Arc::new(AtomicBool::new(false));
    let mut heard = vec![SIGINT, SIGTERM];
    for &signal in &heard {
        // Both run in the signal handler, in this order: a second signal ends the process whatever
        // its threads wait for, and without destructors that other threads still depend on.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&requested))
            .and_then(|_| flag::register(signal, Arc::clone(&requested)))
            .with_context(|| format!("cannot handle signal {signal}"))?;
    }
    if !is_ignored(SIGHUP) {
        flag::register(SIGHUP, requested).context("cannot handle SIGHUP")?;
        heard.push(SIGHUP);
    }
    let mut signals = Signals::new(heard).context("cannot wait for signals")?;
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            stop.request(signal);
            tracing::warn!("{notice}");
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(wait)
        .context("cannot start the thread that waits for signals")?;
    Ok(())
}

/// Whether this process ignores a signal, as far as Linux tells.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;
    use std::time::Duration;

    use signal_hook::low_level::raise;

    use super::*;
    use Go::{Continue, Stop as Halt};

    /// The indices of the steps a rank does, from `first`, at a speed of its own.
    fn steps_done(stop: &Stop, first: u64, rank: u64) -> Vec<u64> {
        let do_step = |step: u64| {
            let hash = (step + 1).wrapping_mul(rank + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            thread::sleep(Duration::from_micros(hash >> 56));
            step
        };
        (first..).take_while(|&step| stop.begin(step) == Continue).map(do_step).collect()
    }

    #[test]
    fn ranks_of_any_speed_do_the_same_steps() {
        for round in 0..20 {
            let (stop, first) = (Stop::default(), 100 * round);
            let done: Vec<_> = thread::scope(|scope| {
                let start = |rank| {
                    scope.spawn({
                        let stop = &stop;
                        move || steps_done(stop, first, rank)
                    })
                };
                let ranks: Vec<_> = (0..4).map(start).collect();
                thread::sleep(Duration::from_micros(100 * round));
                stop.request(SIGINT);
                ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
            });
            assert!(done.iter().all(|steps| *steps == done[0]), "round {round}: {done:?}");
        }
    }

    #[test]
    fn a_slow_rank_does_the_steps_that_a_fast_one_has_started() {
        let stop = Stop::default();
        assert_eq!([0, 1, 2].map(|step| stop.begin(step)), [Continue; 3]);
        stop.request(SIGTERM);
        assert_eq!([0, 1, 2, 3].map(|step| stop.begin(step)), [Continue, Continue, Continue, Halt]);
        assert_eq!(stop.begin(3), Halt);
        assert!(stop.stopped_before(4) && !stop.stopped_before(3));
    }

    #[test]
    fn a_request_before_the_first_step_of_a_resumed_run_stops_it_there() {
        let stop = Stop::default();
        stop.request(SIGINT);
        assert_eq!([stop.begin(70), stop.begin(70)], [Halt; 2]);
    }

    #[test]
    fn the_first_signal_is_remembered() {
        let stop = Stop::default();
        assert_eq!(stop.signal(), None);
        stop.request(SIGTERM);
        stop.request(SIGINT);
        assert_eq!(stop.signal(), Some(SIGTERM));
    }

    fn raise_twice(first: i32, second: i32) {
        let stop = Stop::default();
        install_signals(stop.clone()).expect("signals can be handled");
        assert_eq!(stop.begin(0), Continue);
        raise(first).expect("a valid signal");
        while stop.signal() != Some(first) {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(stop.begin(1), Halt);
        raise(second).expect("a valid signal");
    }

    #[test]
    #[ignore = "ends its process; the tests below run it in one of its own"]
    fn raise_sigint_twice() {
        raise_twice(SIGINT, SIGINT);
    }

    #[test]
    #[ignore = "ends its process; the tests below run it in one of its own"]
    fn raise_sigint_then_sigterm() {
        raise_twice(SIGINT, SIGTERM);
    }

    #[test]
    #[ignore = "ends its process; the tests below run it in one of its own"]
    fn raise_sighup_twice_then_sigterm() {
        raise_twice(SIGHUP, SIGHUP);
        raise(SIGTERM).expect("a valid signal");
    }

    #[test]
    #[ignore = "ends its process where SIGHUP is not ignored; the tests below run it in one of its own"]
    fn raise_sigint_behind_an_ignored_sighup() {
        let stop = Stop::default();
        install_signals(stop.clone()).expect("signals can be handled");
        raise(SIGHUP).expect("a valid signal");
        // The first signal, or the second.
        raise(SIGINT).expect("a valid signal");
        while stop.signal().is_none() {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(stop.signal(), Some(SIGINT));
    }

    /// The code of one of the tests above, begun by `words` before its own command.
    fn exit_code_of(test: &str, words: &[&str]) -> Option<i32> {
        let path = module_path!().split_once("::").expect("a module within the crate").1;
        let program = std::env::current_exe().expect("a running test");
        let mut command = Command::new("env");
        command.args(words).arg(program);
        command.args(["--ignored", "--exact", &format!("{path}::{test}")]);
        command.output().expect("the test runs").status.code()
    }

    #[test]
    fn the_second_signal_ends_the_process_with_its_code() {
        assert_eq!(exit_code_of("raise_sigint_twice", &[]), Some(130));
        assert_eq!(exit_code_of("raise_sigint_then_sigterm", &[]), Some(143));
        assert_eq!(exit_code_of("raise_sighup_twice_then_sigterm", &[]), Some(143));
    }

    #[test]
    fn a_hangup_that_is_ignored_stays_ignored() {
        let quiet = ["--ignore-signal=HUP"];
        assert_eq!(exit_code_of("raise_sigint_behind_an_ignored_sighup", &quiet), Some(0));
        assert_eq!(
            exit_code_of("raise_sigint_behind_an_ignored_sighup", &["--default-signal=HUP"]),
            Some(130)
        );
    }
}
