//! A barrier that a failing peer can break.
//!
//! `std::sync::Barrier` waits for ever for a thread that died. A [`Gate`] opens when all have arrived,
//! or fails for everyone, now and later, once it is poisoned.

use std::sync::{Condvar, Mutex, PoisonError};

/// The wait ended because another rank failed; its own error is the cause, this is the echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another rank failed")]
pub struct PeerFailed;

#[derive(Debug, Default)]
struct State {
    arrived: usize,
    generation: u64,
    poisoned: bool,
}

/// A reusable barrier for a fixed number of threads.
#[derive(Debug)]
pub struct Gate {
    num_threads: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// A gate that opens each time `num_threads` threads wait at it.
    #[must_use]
    pub fn new(num_threads: usize) -> Self {
        Self { num_threads, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits for the others.
    ///
    /// # Errors
    /// [`PeerFailed`] if the gate is, or becomes, poisoned.
    pub fn wait(&self) -> Result<(), PeerFailed> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.poisoned {
            return Err(PeerFailed);
        }
        state.arrived += 1;
        if state.arrived == self.num_threads {
            state.arrived = 0;
            state.generation += 1;
            self.changed.notify_all();
            return Ok(());
        }
        let generation = state.generation;
        while state.generation == generation && !state.poisoned {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // A gate that opened before it was poisoned has opened.
        if state.generation == generation { Err(PeerFailed) } else { Ok(()) }
    }

    /// Fails every wait, those under way included.
    pub fn poison(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).poisoned = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn nobody_passes_before_all_have_arrived_however_often_it_is_used() {
        let (gate, count) = (Gate::new(3), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 1..=100 {
                        count.fetch_add(1, Ordering::SeqCst);
                        gate.wait().expect("not poisoned");
                        assert!(count.load(Ordering::SeqCst) >= 3 * round);
                        gate.wait().expect("not poisoned");
                    }
                });
            }
        });
    }

    #[test]
    fn a_poisoned_gate_fails_the_waiting_and_the_late() {
        let gate = Arc::new(Gate::new(2));
        let waiter = std::thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.wait()
        });
        gate.poison();
        assert_eq!(waiter.join().expect("no panic"), Err(PeerFailed));
        assert_eq!(gate.wait(), Err(PeerFailed));
    }
}
