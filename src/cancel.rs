//! One word that every waiting thread hears: stop.
//!
//! A failing rank must be able to end every wait in the program. A [`Cancel`] is that word; whoever waits on
//! a channel waits on [`Cancel::channel`] too. It does not know why.

use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

/// A shared, one-way switch. Clones are the same switch.
#[derive(Clone, Debug)]
pub struct Cancel {
    /// Dropping the only sender wakes every receiver: that is the signal.
    sender: Arc<Mutex<Option<Sender<()>>>>,
    receiver: Receiver<()>,
}

impl Default for Cancel {
    fn default() -> Self {
        let (sender, receiver) = bounded(0);
        Self { sender: Arc::new(Mutex::new(Some(sender))), receiver }
    }
}

impl Cancel {
    /// Ends every wait, now and later. Calling it again changes nothing.
    pub fn cancel(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// A channel that never carries a message and disconnects on cancellation, for `select!`.
    #[must_use]
    pub fn channel(&self) -> &Receiver<()> {
        &self.receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancelling_wakes_a_waiting_thread() {
        let cancel = Cancel::default();
        let waiter = cancel.clone();
        let thread = std::thread::spawn(move || waiter.channel().recv().is_err());
        cancel.cancel();
        assert!(thread.join().expect("the waiter does not panic"));
    }
}
