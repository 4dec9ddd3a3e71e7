//! Collectives between GPUs by NCCL, beside the computation.
//!
//! Operations run on a stream of their own. Events order it with libtorch's: an operation starts when
//! what was computed before it is done, and its result is there for what is computed after it, or after
//! [`Collective::flush`] for those that begin with `begin_`. The host waits for none of them until
//! `MAX_OPEN` are under way, more than a step has. All calls come from the rank's own thread, and only
//! what the watchdog needs is shared with its own.
//!
//! The threads of a group meet before and after they issue an operation, so that none calls anything else
//! while it has begun on some GPUs only. A rank alone with an operation on its GPU would occupy it until the
//! others come, and they might not: calls of CUDA, such as those that give memory back, wait for whole GPUs,
//! those of other ranks included (NCCL's user guide, "Using multiple NCCL communicators concurrently";
//! libtorch gives back all GPUs' memory when it has tried out convolutions; NCCL itself allocates in the
//! first operations of a group).

mod ffi;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use cudarc::driver::CudaEvent;
use tch::Tensor;

use super::watchdog::{Abortable, Journal, Watchdog};
use super::{Collective, Gate, PeerFailed, num_bytes};
use ffi::{Buffer, Communicator, UniqueId};

pub use ffi::{NcclError, Streams, Unusable, Version, usable};

/// With as many operations under way, the rank waits for the oldest before it issues another: a host that
/// is this far ahead of its GPU gains nothing by going on, and events are not made without end.
const MAX_OPEN: usize = 256;

/// Where the ranks of one group meet. Clone it into each rank's thread, then [`Rendezvous::join`].
#[derive(Clone)]
pub struct Rendezvous {
    id: UniqueId,
    size: usize,
    /// Nobody enters NCCL before all have come.
    gate: Arc<Gate>,
}

impl Rendezvous {
    /// A meeting place for `size` ranks.
    ///
    /// # Errors
    /// If NCCL cannot be used.
    pub fn new(size: usize) -> Result<Self> {
        Ok(Self { id: UniqueId::new()?, size, gate: Arc::new(Gate::new(size)) })
    }

    /// This thread's end of the group, at `position`, known to the watchdog from the first moment.
    ///
    /// # Errors
    /// If a peer fails before all have come, or NCCL does.
    pub fn join(
        &self,
        position: usize,
        streams: &Rc<Streams>,
        journal: Journal,
        watchdog: &Watchdog,
    ) -> Result<Nccl> {
        let link = Arc::new(Link {
            journal,
            gate: Arc::clone(&self.gate),
            communicator: Mutex::new(None),
            is_aborted: AtomicBool::new(false),
            open: Mutex::default(),
        });
        watchdog.watch(link.clone());
        let number = link.journal.begin("joining the group", 0);
        self.gate.wait()?;
        let communicator = Communicator::join(self.id, position, self.size)
            .with_context(|| format!("{:?}: NCCL cannot connect the ranks", streams.device))?;
        link.accept(communicator)?;
        link.journal.end(number);
        let event = || streams.torch.context().new_event(None);
        Ok(Nccl {
            rank: position,
            size: self.size,
            streams: Rc::clone(streams),
            computed: event()?,
            arrived: event()?,
            link,
            lent: RefCell::default(),
            sent: Cell::new(0),
        })
    }
}

/// What the watchdog sees of a rank's end.
struct Link {
    journal: Journal,
    gate: Arc<Gate>,
    /// Held during each call of NCCL, so that nobody aborts a communicator in use.
    communicator: Mutex<Option<Communicator>>,
    is_aborted: AtomicBool,
    open: Mutex<Open>,
}

/// Events behind the operations under way.
#[derive(Default)]
struct Open {
    events: VecDeque<(u64, CudaEvent)>,
    spare: Vec<CudaEvent>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    fn accept(&self, communicator: Communicator) -> Result<()> {
        *lock(&self.communicator) = Some(communicator);
        if self.is_aborted.load(Ordering::SeqCst) {
            self.abort();
        }
        Ok(self.check()?)
    }

    fn check(&self) -> Result<(), PeerFailed> {
        if self.is_aborted.load(Ordering::SeqCst) { Err(PeerFailed) } else { Ok(()) }
    }

    fn call(&self, call: impl FnOnce(&Communicator) -> Result<()>) -> Result<()> {
        self.check()?;
        call(lock(&self.communicator).as_ref().ok_or(PeerFailed)?)
    }

    /// Puts an event behind operation `number`, just issued.
    fn mark(&self, number: u64, streams: &Streams) -> Result<()> {
        let mut open = lock(&self.open);
        if open.events.len() >= MAX_OPEN {
            self.reap(&mut open)?;
        }
        if open.events.len() >= MAX_OPEN {
            open.events[0].1.synchronize()?;
            self.reap(&mut open)?;
        }
        let event = match open.spare.pop() {
            Some(event) => event,
            None => streams.travel.context().new_event(None)?,
        };
        event.record(&streams.travel)?;
        open.events.push_back((number, event));
        Ok(())
    }

    /// Notes the operations that have ended, also on the watchdog's thread, which has no GPU of its own.
    fn reap(&self, open: &mut Open) -> Result<()> {
        while let Some((number, event)) = open.events.front() {
            event.context().bind_to_thread()?;
            if !event.try_is_complete()? {
                break;
            }
            self.journal.end(*number);
            let done = open.events.pop_front().map(|(_, event)| event);
            open.spare.extend(done);
        }
        Ok(())
    }
}

impl Abortable for Link {
    fn journal(&self) -> &Journal {
        &self.journal
    }

    fn poll(&self) -> Option<String> {
        if self.is_aborted.load(Ordering::SeqCst) {
            return None;
        }
        // A lock that is taken is the rank's, which is about to see any error itself.
        if let Ok(mut open) = self.open.try_lock()
            && let Err(error) = self.reap(&mut open)
        {
            return Some(format!("{error:#}"));
        }
        self.communicator.try_lock().ok()?.as_ref()?.error()
    }

    fn finish(&self) -> Result<()> {
        let Some(communicator) = lock(&self.communicator).take() else { return Ok(()) };
        let number = self.journal.begin("leaving the group", 0);
        communicator.finish()?;
        self.journal.end(number);
        Ok(())
    }

    fn abort(&self) {
        self.is_aborted.store(true, Ordering::SeqCst);
        self.gate.poison();
        let communicator = lock(&self.communicator).take();
        if let Some(Err(error)) = communicator.map(Communicator::abort) {
            tracing::debug!("{error:#}");
        }
    }
}

/// One rank's end of a group of GPUs.
pub struct Nccl {
    rank: usize,
    size: usize,
    streams: Rc<Streams>,
    /// Recorded behind what has been computed.
    computed: CudaEvent,
    /// Recorded behind what has been sent.
    arrived: CudaEvent,
    link: Arc<Link>,
    /// Kept until [`Nccl::arrive`]: libtorch would use their memory again too early.
    lent: RefCell<Vec<Tensor>>,
    sent: Cell<u64>,
}

impl Nccl {
    /// What the watchdog sees, and what is to be finished when the rank's work is done.
    #[must_use]
    pub fn end(&self) -> Arc<dyn Abortable> {
        Arc::clone(&self.link) as _
    }

    /// Runs an operation after what libtorch has been asked to compute so far.
    fn issue(
        &self,
        name: &'static str,
        bytes: usize,
        call: impl FnOnce(&Communicator) -> Result<()>,
    ) -> Result<()> {
        self.link.check()?;
        let number = self.link.journal.begin(name, bytes);
        self.computed.record(&self.streams.torch)?;
        self.streams.travel.wait(&self.computed)?;
        self.link.gate.wait()?;
        self.link.call(call).with_context(|| format!("{name} of {bytes} bytes"))?;
        self.link.gate.wait()?;
        self.link.mark(number, &self.streams)
    }

    /// Lets what libtorch computes from now on wait for what has been issued so far.
    fn arrive(&self) -> Result<()> {
        self.arrived.record(&self.streams.travel)?;
        self.streams.torch.wait(&self.arrived)?;
        self.lent.borrow_mut().clear();
        Ok(())
    }

    fn buffer(&self, x: &Tensor) -> Result<Buffer> {
        Buffer::of(x, self.streams.device)
    }

    fn count(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    fn lend(&self, x: &Tensor, out: &Tensor) {
        self.lent.borrow_mut().extend([x.shallow_clone(), out.shallow_clone()]);
    }
}

impl Drop for Nccl {
    /// What was begun and not flushed may still use the lent memory, so libtorch's stream waits for it
    /// before that is used again. The host goes on: a rank that fails could otherwise not say so before
    /// its peers, which may be waiting for it elsewhere, have come.
    fn drop(&mut self) {
        if let Err(error) = self.arrive() {
            tracing::debug!("{error:#}");
        }
    }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce(&self, x: &mut Tensor) -> Result<()> {
        let buffer = self.buffer(x)?;
        self.count(2 * num_bytes(x) * (self.size - 1) / self.size);
        self.issue("all-reduce", num_bytes(x), |c| c.all_reduce(buffer, &self.streams))?;
        self.arrive()
    }

    fn all_gather(&self, shard: &Tensor, out: &mut Tensor) -> Result<()> {
        self.begin_all_gather(shard, out)?;
        self.arrive()
    }

    fn reduce_scatter(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.begin_reduce_scatter(x, out)?;
        self.arrive()
    }

    fn all_to_all(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.begin_all_to_all(x, out)?;
        self.arrive()
    }

    fn begin_all_gather(&self, shard: &Tensor, out: &mut Tensor) -> Result<()> {
        let fits = out.numel() == shard.numel() * self.size && out.kind() == shard.kind();
        ensure!(fits, "all-gather of {shard:?} from {} ranks into {out:?}", self.size);
        let (from, to) = (self.buffer(shard)?, self.buffer(out)?);
        self.count(num_bytes(shard) * (self.size - 1));
        self.lend(shard, out);
        self.issue("all-gather", num_bytes(shard), |c| c.all_gather(from, to, &self.streams))
    }

    fn begin_reduce_scatter(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let fits = x.numel() == out.numel() * self.size && out.kind() == x.kind();
        ensure!(fits, "reduce-scatter of {x:?} over {} ranks into {out:?}", self.size);
        let (from, to) = (self.buffer(x)?, self.buffer(out)?);
        self.count(num_bytes(out) * (self.size - 1));
        self.lend(x, out);
        self.issue("reduce-scatter", num_bytes(x), |c| c.reduce_scatter(from, to, &self.streams))
    }

    fn begin_all_to_all(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        let fits = x.numel() == out.numel()
            && x.numel().is_multiple_of(self.size)
            && out.kind() == x.kind();
        ensure!(fits, "all-to-all of {x:?} among {} ranks into {out:?}", self.size);
        let (from, to) = (self.buffer(x)?, self.buffer(out)?);
        self.count(num_bytes(x) * (self.size - 1) / self.size);
        self.lend(x, out);
        self.issue("all-to-all", num_bytes(x), |c| c.all_to_all(from, to, self.size, &self.streams))
    }

    fn broadcast(&self, x: &mut Tensor, root: usize) -> Result<()> {
        let buffer = self.buffer(x)?;
        if self.rank == root {
            self.count(num_bytes(x) * (self.size - 1));
        }
        self.issue("broadcast", num_bytes(x), |c| c.broadcast(buffer, root, &self.streams))?;
        self.arrive()
    }

    fn flush(&self) -> Result<()> {
        self.link.check()?;
        self.arrive()
    }

    fn sent_bytes(&self) -> u64 {
        self.sent.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_nccl_or_a_driver_there_is_no_meeting_place_and_the_error_says_why() {
        match (usable(), Rendezvous::new(2)) {
            (Ok(_), Ok(_)) => {}
            (Err(why), Err(error)) => assert_eq!(error.downcast_ref(), Some(&why)),
            (usable, other) => panic!("{usable:?}, yet {:?}", other.err()),
        }
    }
}
