//! One thread per rank, and the end of all of them when one fails.
//!
//! The first error wins: it is kept with its rank, every wait of the others is broken, and it alone is
//! reported. A rank that hangs in a collective has failed, too. The module does not know what the ranks
//! do.

mod axes;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tch::Device;

use crate::backend::Backend;
use crate::cancel::Cancel;
use crate::collective::Collective;
use crate::collective::watchdog::{Aborts, Watchdog};
use crate::exit::{Coded, Exit, exit_of, in_words};
use crate::panics;
use crate::topology::Topology;
use crate::torch_ext::cuda::Stay;
use axes::Axes;

/// How long the other ranks may take to notice a failure before the process ends without them.
const GRACE: Duration = Duration::from_secs(3);

/// As much as a process's first thread has: cuDNN compiles kernels on the threads that compute.
const STACK_BYTES: usize = 8 << 20;

/// How often the watchdog looks.
const TICK: Duration = Duration::from_millis(100);

/// What one rank is given.
pub struct Place {
    /// Its number, from 0.
    pub rank: usize,
    /// Its position on the data axis.
    pub replica: usize,
    /// The column of the convolutions it computes.
    pub column: usize,
    /// Where it computes.
    pub device: Device,
    /// The ranks with the same parameters.
    pub data: Box<dyn Collective>,
    /// The ranks with the other columns, or slices, of the same layers.
    pub columns: Box<dyn Collective>,
    /// The step it is at, for messages about it.
    step: Arc<AtomicU64>,
}

impl Place {
    /// Says which step the rank is at.
    pub fn at_step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }

    /// Payload bytes this rank has sent so far.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.data.sent_bytes() + self.columns.sent_bytes()
    }
}

/// The ranks of a run.
pub struct World {
    /// Who computes what.
    pub topology: Topology,
    /// One per rank.
    pub devices: Vec<Device>,
    /// CPU threads of each rank.
    pub threads: usize,
    /// What carries data between ranks.
    pub backend: Backend,
    /// How long a collective may take.
    pub collective_timeout: Duration,
    /// Breaks the waits that are not collectives.
    pub cancel: Cancel,
}

/// A rank that failed, with what it failed of.
#[derive(Debug, thiserror::Error)]
#[error("rank {rank} of {num_ranks}")]
pub struct RankFailed {
    rank: usize,
    num_ranks: usize,
    source: anyhow::Error,
}

/// What the threads of a run share.
struct Running {
    axes: Axes,
    watchdog: Arc<Watchdog>,
    first_failure: Mutex<Option<RankFailed>>,
}

impl Running {
    /// Keeps the first failure.
    fn fail(&self, failed: RankFailed) {
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failed);
    }

    fn has_failed(&self) -> bool {
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Ends the process with the first failure's code, without destructors: they would wait for what
    /// hangs.
    fn end_process(&self) -> ! {
        let first = self.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
        let mut code = 1;
        if let Some(failed) = first.as_ref() {
            tracing::error!("{failed}: {}", in_words(&failed.source));
            code = i32::from(exit_of(&failed.source) as u8);
        }
        signal_hook::low_level::exit(code)
    }
}

/// The thread that asks libraries what has ended. One that does not answer keeps it, and nobody else.
struct Polling {
    over: Option<Sender<()>>,
    ended: Receiver<()>,
}

impl Polling {
    fn of(watchdog: &Arc<Watchdog>) -> Result<Self> {
        // Nothing is ever sent on these: they close.
        let (over, is_over) = bounded(0);
        let (running, ended) = bounded(0);
        let watchdog = Arc::clone(watchdog);
        let poll = move || {
            let _running = running;
            while is_over.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                watchdog.poll();
            }
        };
        let named = std::thread::Builder::new().name("poll".into());
        named.spawn(poll).context("cannot start the thread that watches the collectives")?;
        Ok(Self { over: Some(over), ended })
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.over.take();
        let _ = self.ended.recv_timeout(GRACE);
    }
}

impl World {
    /// Runs `work` on every rank and returns the results in rank order.
    ///
    /// # Errors
    /// The first error, or panic, of any rank.
    pub fn run<T: Send>(&self, work: impl Fn(Place) -> Result<T> + Sync) -> Result<Vec<T>> {
        let num_ranks = self.topology.num_ranks();
        let running = Running {
            axes: Axes::new(self.topology, self.backend)?,
            watchdog: Arc::new(Watchdog::new(self.collective_timeout)),
            first_failure: Mutex::new(None),
        };
        running.watchdog.expect(Axes::members(self.topology));
        let polling = Polling::of(&running.watchdog)?;
        let (done, finished) = bounded::<()>(num_ranks);
        let results: Vec<Option<T>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..num_ranks)
                .map(|rank| {
                    let (running, work, over) = (&running, &work, done.clone());
                    let thread = move || {
                        let result = caught(|| self.rank(rank, running, work));
                        let value = result
                            .map_err(|source| running.fail(RankFailed { rank, num_ranks, source }));
                        // The receiver outlives the scope.
                        let _ = over.send(());
                        value.ok()
                    };
                    let named = std::thread::Builder::new().name(format!("rank{rank}"));
                    let started = named.spawn_scoped(scope, thread);
                    started.context("cannot start the thread of a rank").map_err(|source| {
                        // The others would wait for it.
                        running.fail(RankFailed { rank, num_ranks, source });
                        let _ = done.send(());
                    })
                })
                .collect();
            self.supervise(&running, &finished);
            let value = |thread: ScopedJoinHandle<'_, Option<T>>| thread.join().ok().flatten();
            threads.into_iter().map(|thread| thread.ok().and_then(value)).collect()
        });
        drop(polling);
        match running.first_failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(failed) if num_ranks == 1 => Err(failed.source),
            Some(failed) => Err(failed.into()),
            None => results.into_iter().collect::<Option<_>>().context("a rank gave no result"),
        }
    }

    /// One rank's thread: its share of the CPU, its device and its groups, then its work.
    fn rank<T: Send>(
        &self,
        rank: usize,
        running: &Running,
        work: impl Fn(Place) -> Result<T> + Sync,
    ) -> Result<T> {
        let mut threads = Vec::with_capacity(self.threads);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads)
            .spawn_handler(|thread| {
                let named =
                    std::thread::Builder::new().name(format!("rank{rank}-{}", thread.index()));
                threads.push(named.stack_size(STACK_BYTES).spawn(|| thread.run())?);
                Ok(())
            })
            .build()
            .context("cannot start the threads of a rank")?;
        let compute = || {
            // libtorch gives a thread the latest number set anywhere when the thread first asks for it:
            // ask before setting, or another run in this process decides, and sums round differently.
            tch::get_num_threads();
            tch::set_num_threads(self.threads as i32);
            // Torch counts gradients by default, and this program computes its own.
            let _no_grad = tch::no_grad_guard();
            let _stay = Stay::on(self.devices[rank]).map_err(|e| Coded::new(Exit::Device, e))?;
            let (place, ends) = running.axes.place(self, rank, &running.watchdog)?;
            let value = work(place)?;
            if !running.has_failed() {
                ends.iter().try_for_each(|end| end.finish())?;
            }
            Ok(value)
        };
        // A panic, too, is followed by what comes next.
        let result = pool.install(|| caught(compute));
        drop(pool);
        // What libraries keep for each thread is given back before the process may end.
        threads.into_iter().for_each(|thread| drop(thread.join()));
        result
    }

    /// Waits for all ranks and watches their collectives. Once a rank has failed, breaks every wait of
    /// the others, gives them a few seconds, and then ends the process. It also ends where all ranks came
    /// back but a library did not: what it still does on a GPU would meet the next run there.
    fn supervise(&self, running: &Running, finished: &Receiver<()>) {
        let mut num_running = self.topology.num_ranks();
        let (mut before, mut failed_at) = (Instant::now(), None);
        let mut aborts = Aborts::Done;
        while num_running > 0 {
            num_running -= usize::from(finished.recv_timeout(TICK).is_ok());
            // Time in which the whole process was stopped is nobody's fault.
            let elapsed = before.elapsed().min(2 * TICK);
            before = Instant::now();
            if failed_at.is_none() {
                if let Some(stuck) = running.watchdog.tick(elapsed) {
                    let (rank, num_ranks) = (stuck.member.rank, self.topology.num_ranks());
                    running.fail(RankFailed { rank, num_ranks, source: stuck.into() });
                }
                if running.has_failed() {
                    failed_at = Some(Instant::now());
                    self.cancel.cancel();
                    aborts = running.watchdog.abort_all(GRACE / 2);
                }
            }
            if num_running > 0 && failed_at.is_some_and(|at| at.elapsed() > GRACE) {
                running.end_process();
            }
        }
        if aborts == Aborts::Hang {
            running.end_process();
        }
    }
}

/// The result of `work`, or its panic as an error: a thread that merely died would be waited for.
fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(anyhow!("panicked: {}", panics::message(&*panic))))
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;
    use crossbeam_channel::TryRecvError;

    use super::*;
    use crate::topology::Division;
    use tch::{Kind, Tensor};

    fn world(num_ranks: usize) -> World {
        World {
            topology: Topology::new(Division::Replicas, num_ranks).expect("any number"),
            devices: vec![Device::Cpu; num_ranks],
            threads: 1,
            backend: Backend::InProcess,
            collective_timeout: Duration::from_secs(600),
            cancel: Cancel::default(),
        }
    }

    fn sum_of_ranks(place: &Place) -> Result<f64> {
        let mut x = Tensor::full([3], place.rank as f64, (Kind::Double, Device::Cpu));
        place.data.all_reduce(&mut x)?;
        Ok(x.double_value(&[0]))
    }

    #[test]
    fn results_come_in_rank_order_and_groups_are_connected() {
        let results = world(3).run(|place| Ok((place.rank, sum_of_ranks(&place)?)));
        assert_eq!(results.expect("nothing fails"), [(0, 3.0), (1, 3.0), (2, 3.0)]);
    }

    #[test]
    fn a_panicking_rank_ends_the_others_and_is_the_error_reported() {
        let world = world(3);
        let result = world.run(|place| {
            assert!(place.rank != 1, "rank one breaks");
            sum_of_ranks(&place)
        });
        let error = format!("{:#}", result.expect_err("rank 1 panicked"));
        assert!(error.contains("rank 1 of 3") && error.contains("rank one breaks"), "{error}");
        assert_eq!(world.cancel.channel().try_recv(), Err(TryRecvError::Disconnected));
    }

    #[test]
    fn a_rank_that_panics_before_its_work_begins_ends_the_others_too() {
        let mut world = world(2);
        world.devices.truncate(1);
        let error = world.run(|place| sum_of_ranks(&place)).expect_err("rank 1 has no device");
        let error = format!("{error:#}");
        assert!(error.contains("rank 1 of 2: panicked: index out of bounds"), "{error}");
    }

    #[test]
    fn the_code_of_a_rank_s_error_survives_the_rank() {
        let error = world(2).run(|place| {
            ensure!(place.rank != 1, Coded::new(Exit::Data, anyhow!("no image")));
            sum_of_ranks(&place)
        });
        assert_eq!(exit_of(&error.expect_err("rank 1 failed")), Exit::Data);
    }

    #[test]
    fn a_rank_that_never_comes_ends_the_run_and_is_named() {
        let mut world = world(2);
        world.collective_timeout = Duration::from_millis(1);
        let error = world.run(|place| {
            place.at_step(41);
            match place.rank {
                0 => sum_of_ranks(&place),
                // Stands for a rank that waits for something else.
                _ => Ok(world.cancel.channel().recv().map_or(0.0, |()| 1.0)),
            }
        });
        let error = error.expect_err("rank 1 never comes");
        let text = format!("{error:#}");
        for words in ["rank 0 of 2: all-reduce of 24 bytes (step 41", "data axis", "rank 1 has not"]
        {
            assert!(text.contains(words), "{text}");
        }
        assert_eq!(exit_of(&error), Exit::Exchange);
    }

    #[test]
    #[ignore = "ends its process; the test below runs it in one of its own"]
    fn one_rank_fails_and_another_hears_nothing() {
        let _ = world(2).run(|place| {
            ensure!(place.rank != 0, "rank nought breaks");
            loop {
                std::thread::park();
            }
            #[allow(unreachable_code, reason = "gives the closure its type")]
            Ok(())
        });
    }

    #[test]
    fn a_rank_that_hears_nothing_does_not_keep_the_process() {
        let name = "launch::tests::one_rank_fails_and_another_hears_nothing";
        let mut test = std::process::Command::new(std::env::current_exe().expect("a running test"));
        let output = test.args(["--ignored", "--exact", name]).output().expect("the test runs");
        assert_eq!(output.status.code(), Some(1));
    }
}
