//! NCCL's side of the collectives without a GPU: on emulated streams that lag behind the host, groups keep the
//! contract, and what fails, hangs or does not come ends and is named. `make test-gpu` asks the real library.

mod nccl_emulation;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use alexnet_mgpu::collective::contract::CLAUSES;
use alexnet_mgpu::collective::nccl::{Nccl, Rendezvous, Streams};
use alexnet_mgpu::collective::watchdog::{Aborts, Journal, Member, Watchdog, Why};
use alexnet_mgpu::collective::{Collective, PeerFailed};
use alexnet_mgpu::torch_ext::cuda::Hold;
use anyhow::Result;
use crossbeam_channel::{Receiver, Sender, bounded};
use cudarc::driver::CudaStream;
use nccl_emulation::{Lagging, stream};
use tch::{Device, Kind, Tensor};

/// How long an operation may take, by the clock of the tests, which they tick themselves.
const LIMIT: Duration = Duration::from_secs(5);

/// How long a rank may take to come where none should wait.
const PATIENCE: Duration = Duration::from_secs(60);

const SUM: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Meeting places on a data axis and a column axis, with the same ranks on both.
struct Groups {
    data: Rendezvous,
    columns: Rendezvous,
    watchdog: Watchdog,
}

/// One rank's ends of both, the stream it computes on, and the one it sends on.
struct Rank {
    data: Nccl,
    columns: Nccl,
    torch: Arc<CudaStream>,
    travel: Arc<CudaStream>,
}

/// Where ranks wait until the run is given up.
struct Moment {
    come: Sender<()>,
    is_over: Receiver<()>,
}

impl Moment {
    fn come(&self) {
        self.come.send(()).expect("received");
    }

    fn wait(&self) {
        // Nothing is ever sent: the channel closes.
        let _ = self.is_over.recv();
    }
}

impl Groups {
    fn new(size: usize) -> Self {
        // The libraries are there once a stream is.
        drop(stream(0));
        let meet = || Rendezvous::new(size).expect("the emulation");
        Self { data: meet(), columns: meet(), watchdog: Watchdog::new(LIMIT) }
    }

    fn join(&self, rank: usize) -> Result<Rank> {
        let (torch, travel) = (stream(rank), stream(rank));
        let streams = Rc::new(Streams::of(Device::Cpu, Arc::clone(&torch), Arc::clone(&travel)));
        let end = |group: &Rendezvous, axis| {
            let member = Member { rank, axis, group: 0 };
            let journal = Journal::new(member, Arc::new(AtomicU64::new(7)));
            group.join(rank, &streams, journal, &self.watchdog)
        };
        let (data, columns) = (end(&self.data, "data")?, end(&self.columns, "column")?);
        Ok(Rank { data, columns, torch, travel })
    }

    /// Runs `work` on `size` ranks, each a thread, while `meanwhile` runs here; the results of both. A
    /// panic of one ends the waits of the others.
    fn run<T: Send, U>(
        &self,
        size: usize,
        work: impl Fn(Rank) -> T + Sync,
        meanwhile: impl FnOnce() -> U,
    ) -> (Vec<T>, U) {
        std::thread::scope(|scope| {
            let ranks: Vec<_> = (0..size)
                .map(|rank| {
                    let work = &work;
                    scope.spawn(move || {
                        self.guarded(|| work(self.join(rank).unwrap_or_else(|e| panic!("{e:#}"))))
                    })
                })
                .collect();
            let here = self.guarded(meanwhile);
            let results = ranks.into_iter().map(|rank| rank.join());
            (results.map(|result| result.unwrap_or_else(|e| resume_unwind(e))).collect(), here)
        })
    }

    /// The same while all ranks have come to a moment and wait there for what is found here; then the run is
    /// given up.
    fn give_up<T: Send, U>(
        &self,
        size: usize,
        work: impl Fn(Rank, &Moment) -> T + Sync,
        look: impl FnOnce() -> U,
    ) -> (Vec<T>, U) {
        let ((come, all_come), (over, is_over)) = (bounded(size), bounded::<()>(0));
        let moment = Moment { come, is_over };
        self.run(
            size,
            |rank| work(rank, &moment),
            || {
                let _over = over;
                // One that has panicked does not.
                (0..size).for_each(|_| all_come.recv_timeout(PATIENCE).expect("all come"));
                let found = look();
                assert_eq!(self.watchdog.abort_all(LIMIT), Aborts::Done);
                found
            },
        )
    }

    fn guarded<T>(&self, work: impl FnOnce() -> T) -> T {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            self.watchdog.abort_all(LIMIT);
            resume_unwind(panic)
        })
    }

    /// Ticks, by a clock of its own, until what is `wanted` is found.
    fn stuck(&self, wanted: impl Fn(&Why) -> bool) -> String {
        for _ in 0..10_000 {
            self.watchdog.poll();
            match self.watchdog.tick(LIMIT / 4) {
                Some(stuck) if wanted(&stuck.why) => return stuck.to_string(),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        panic!("nothing is stuck");
    }
}

fn ones() -> Tensor {
    Tensor::ones([1024], SUM)
}

/// That a message tells of the sum of [`ones`], and why it did not end.
fn assert_names(stuck: &str, why: &str) {
    let words = ["all-reduce of 4096 bytes (step 7", "data axis", why];
    assert!(words.iter().all(|words| stuck.contains(words)), "{stuck}");
}

fn is_peer_failed(result: &Result<()>) -> bool {
    result.as_ref().is_err_and(|error| error.is::<PeerFailed>())
}

#[test]
fn groups_keep_the_contract_while_streams_lag_behind_the_host() {
    for size in 1..=4 {
        let groups = Groups::new(size);
        let keep = |rank: Rank| -> Result<()> {
            let end = rank.data.end();
            let data = Lagging::new(rank.data, rank.torch);
            CLAUSES.iter().try_for_each(|(_, clause)| clause(&data, Device::Cpu))?;
            end.finish()
        };
        let (results, ()) = groups.run(size, keep, || {});
        results.into_iter().for_each(|result| result.expect("kept"));
        groups.watchdog.poll();
        assert_eq!(groups.watchdog.tick(Duration::ZERO), None);
        assert_eq!(groups.watchdog.tick(10 * LIMIT), None, "something is open still");
    }
}

#[test]
fn one_axis_keeps_the_contract_while_something_is_under_way_on_the_other() {
    let groups = Groups::new(3);
    let keep = |rank: Rank| -> Result<()> {
        let columns = Lagging::new(rank.columns, rank.torch);
        for (_, clause) in CLAUSES {
            let x = Tensor::ones([3 << 16], SUM);
            let mut sum = Tensor::zeros([1 << 16], SUM);
            rank.data.begin_reduce_scatter(&x, &mut sum)?;
            clause(&columns, Device::Cpu)?;
            rank.data.flush()?;
            columns.flush()?;
            assert_eq!(sum.mean(Kind::Double).double_value(&[]), 3.0);
        }
        Ok(())
    };
    let (results, ()) = groups.run(3, keep, || {});
    results.into_iter().for_each(|result| result.expect("kept"));
}

#[test]
fn a_host_far_ahead_waits_for_its_gpu_and_nothing_is_lost() {
    let groups = Groups::new(2);
    // More operations than may be open; each doubles, as there are two ranks.
    let num_operations = 300;
    let work = |rank: Rank| -> Result<f64> {
        let mut x = Tensor::ones([4], (Kind::Double, Device::Cpu));
        (0..num_operations).try_for_each(|_| rank.data.all_reduce(&mut x))?;
        rank.torch.synchronize()?;
        Ok(x.max().double_value(&[]))
    };
    for result in groups.run(2, work, || {}).0 {
        assert_eq!(result.expect("nobody fails"), 2f64.powi(num_operations));
    }
}

#[test]
fn memory_is_not_used_again_while_an_operation_may_read_it() {
    let groups = Groups::new(1);
    let work = |rank: Rank| {
        let hold = Hold::of(&rank.torch).expect("held");
        // So large that memory given back is the system's, which gives it to the next who asks.
        let large = || Tensor::empty([1 << 24], SUM);
        let (x, mut out) = (large(), large());
        let before = x.data_ptr();
        rank.data.begin_reduce_scatter(&x, &mut out).expect("begun");
        drop(x);
        let is_used = [large(), large()].iter().any(|x| x.data_ptr() == before);
        drop(hold);
        rank.data.flush().expect("nobody fails");
        rank.torch.synchronize().expect("the stream goes on");
        is_used
    };
    assert_eq!(groups.run(1, work, || {}).0, [false]);
}

#[test]
fn what_has_ended_is_noted_while_the_ranks_do_something_else() {
    let groups = Groups::new(2);
    let work = |rank: Rank, moment: &Moment| {
        let mut x = ones();
        rank.data.all_reduce(&mut x).expect("issued");
        rank.travel.synchronize().expect("the stream goes on");
        moment.come();
        moment.wait();
    };
    let (_, stuck) = groups.give_up(2, work, || {
        groups.watchdog.poll();
        [Duration::ZERO, 2 * LIMIT].map(|elapsed| groups.watchdog.tick(elapsed))
    });
    assert_eq!(stuck, [None, None]);
}

#[test]
fn an_operation_that_no_gpu_ends_is_named_and_ended() {
    let groups = Groups::new(2);
    let work = |rank: Rank, moment: &Moment| {
        let _hold = Hold::of(&rank.travel).expect("held");
        let mut x = ones();
        rank.data.all_reduce(&mut x).expect("issued");
        moment.come();
        moment.wait();
        rank.data.all_reduce(&mut x)
    };
    let (results, stuck) = groups.give_up(2, work, || groups.stuck(|_| true));
    assert!(results.iter().all(is_peer_failed), "{results:?}");
    assert_names(&stuck, "all ranks have begun it");
}

#[test]
fn an_operation_that_a_peer_never_comes_to_is_ended_by_an_abort() {
    let groups = Groups::new(2);
    let work = |rank: Rank, moment: &Moment| {
        let _hold = (rank.data.rank() == 1).then(|| Hold::of(&rank.torch).expect("held"));
        let mut x = ones();
        rank.data.all_reduce(&mut x).expect("issued");
        moment.come();
        moment.wait();
        // Rank 0's operation is under way, and waits for its peer until it is aborted.
        if rank.data.rank() == 0 {
            rank.travel.synchronize().expect("the stream goes on");
        }
        rank.data.flush()
    };
    let (results, ()) = groups.give_up(2, work, || {});
    assert!(results.iter().all(is_peer_failed), "{results:?}");
}

#[test]
fn a_rank_that_does_not_come_is_named_and_the_others_are_let_go() {
    let groups = Groups::new(3);
    let work = |rank: Rank, moment: &Moment| {
        moment.come();
        if rank.data.rank() == 1 {
            moment.wait();
        }
        rank.data.all_reduce(&mut ones())
    };
    // Ranks come to the moment a little before they begin.
    let alone = |why: &Why| matches!(why, Why::Late { missing, .. } if missing[..] == [1]);
    let (results, stuck) = groups.give_up(3, work, || groups.stuck(alone));
    assert!(results.iter().all(is_peer_failed), "{results:?}");
    assert_names(&stuck, "rank 1 has not begun it");
}

#[test]
fn an_error_of_the_library_is_found_and_named() {
    let groups = Groups::new(2);
    let work = |rank: Rank, moment: &Moment| {
        // Not the same on both.
        let mut x = Tensor::ones([1024 + rank.data.rank() as i64], SUM);
        rank.data.all_reduce(&mut x).expect("issued");
        rank.torch.synchronize().expect("the stream goes on");
        moment.come();
        moment.wait();
        rank.data.flush()
    };
    let (results, stuck) = groups.give_up(2, work, || groups.stuck(|_| true));
    assert!(results.iter().all(is_peer_failed), "{results:?}");
    assert!(stuck.contains("(step 7") && stuck.contains("failed: NCCL: invalid usage"), "{stuck}");
}

#[test]
fn who_joins_a_group_that_was_given_up_is_told_so() {
    let groups = Groups::new(2);
    groups.watchdog.abort_all(LIMIT);
    let error = groups.join(0).err().expect("the peer never comes");
    assert!(error.is::<PeerFailed>(), "{error:#}");
}
