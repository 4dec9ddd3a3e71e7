//! One thread per rank, and the end of all of them when one fails.
//!
//! The first error wins: it is kept with its rank, every wait of the others is broken, and it alone is
//! reported. The module does not know what the ranks do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use crossbeam_channel::bounded;
use tch::Device;

use crate::cancel::Cancel;
use crate::collective::{Collective, Rendezvous, Solo};
use crate::exit::exit_of;
use crate::topology::{Axis, Seat, Topology};

/// How long the other ranks may take to notice a failure before the process ends without them.
const GRACE: Duration = Duration::from_secs(3);

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
}

impl Place {
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

/// The meeting places of all groups on both axes.
struct Axes {
    data: Vec<Rendezvous>,
    columns: Vec<Rendezvous>,
}

impl Axes {
    fn new(topology: Topology) -> Self {
        let groups = |axis| {
            let (num, size) = topology.groups(axis);
            (0..num).map(|_| Rendezvous::new(size)).collect()
        };
        Self { data: groups(Axis::Data), columns: groups(Axis::Columns) }
    }

    fn poison(&self) {
        self.data.iter().chain(&self.columns).for_each(Rendezvous::poison);
    }

    fn place(&self, world: &World, rank: usize) -> Place {
        let topology = world.topology;
        let join = |axis, groups: &[Rendezvous]| -> Box<dyn Collective> {
            let Seat { group, position } = topology.seat(axis, rank);
            let (_, size) = topology.groups(axis);
            if size == 1 { Box::new(Solo) } else { Box::new(groups[group].join(position)) }
        };
        Place {
            rank,
            replica: topology.replica(rank),
            column: topology.column(rank),
            device: world.devices[rank],
            data: join(Axis::Data, &self.data),
            columns: join(Axis::Columns, &self.columns),
        }
    }
}

impl World {
    /// Runs `work` on every rank and returns the results in rank order.
    ///
    /// # Errors
    /// The first error, or panic, of any rank.
    pub fn run<T: Send>(&self, work: impl Fn(Place) -> Result<T> + Sync) -> Result<Vec<T>> {
        let num_ranks = self.topology.num_ranks();
        let axes = Axes::new(self.topology);
        let first_failure = Mutex::new(None);
        let (done, finished) = bounded::<()>(num_ranks);
        let results: Vec<Option<T>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..num_ranks)
                .map(|rank| {
                    let (axes, first_failure, work, done) =
                        (&axes, &first_failure, &work, done.clone());
                    scope.spawn(move || {
                        let result = self.rank(rank, axes, work);
                        let value = result.map_err(|source| {
                            let failed = RankFailed { rank, num_ranks, source };
                            let mut first =
                                first_failure.lock().unwrap_or_else(PoisonError::into_inner);
                            first.get_or_insert(failed);
                            self.cancel.cancel();
                            axes.poison();
                        });
                        // The receiver outlives the scope.
                        let _ = done.send(());
                        value.ok()
                    })
                })
                .collect();
            self.supervise(num_ranks, &finished, &first_failure);
            threads.into_iter().map(|thread| thread.join().ok().flatten()).collect()
        });
        match first_failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(failed) if num_ranks == 1 => Err(failed.source),
            Some(failed) => Err(failed.into()),
            None => results.into_iter().collect::<Option<_>>().context("a rank gave no result"),
        }
    }

    /// One rank's thread: its share of the CPU, then its work, with panics made into errors.
    fn rank<T: Send>(
        &self,
        rank: usize,
        axes: &Axes,
        work: impl Fn(Place) -> Result<T> + Sync,
    ) -> Result<T> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads)
            .thread_name(move |i| format!("rank{rank}-{i}"))
            .build()
            .context("cannot start the threads of a rank")?;
        pool.install(|| {
            // libtorch gives a thread the latest number set anywhere when the thread first asks for it:
            // ask before setting, or another run in this process decides, and sums round differently.
            tch::get_num_threads();
            tch::set_num_threads(self.threads as i32);
            // Torch counts gradients by default, and this program computes its own.
            let _no_grad = tch::no_grad_guard();
            let place = axes.place(self, rank);
            catch_unwind(AssertUnwindSafe(|| work(place)))
                .unwrap_or_else(|panic| Err(anyhow!("panicked: {}", panic_message(&*panic))))
        })
    }

    /// Waits for all ranks; once one has failed, for a few seconds more, then ends the process.
    fn supervise(
        &self,
        num_ranks: usize,
        finished: &crossbeam_channel::Receiver<()>,
        first_failure: &Mutex<Option<RankFailed>>,
    ) {
        for _ in 0..num_ranks {
            loop {
                if finished.recv_timeout(GRACE).is_ok() {
                    break;
                }
                let first = first_failure.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(failed) = first.as_ref() {
                    tracing::error!("{failed}: {:#}", failed.source);
                    std::process::exit(i32::from(exit_of(&failed.source) as u8));
                }
            }
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;
    use crate::exit::Exit;
    use crate::topology::Division;
    use tch::{Kind, Tensor};

    fn world(num_ranks: usize) -> World {
        World {
            topology: Topology::new(Division::Replicas, num_ranks).expect("any number"),
            devices: vec![Device::Cpu; num_ranks],
            threads: 1,
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
        assert!(world.cancel.is_cancelled());
    }

    #[test]
    fn the_code_of_a_rank_s_error_survives_the_rank() {
        let error = world(2).run(|place| {
            ensure!(place.rank != 1, crate::exit::Coded::new(Exit::Data, anyhow!("no image")));
            sum_of_ranks(&place)
        });
        assert_eq!(exit_of(&error.expect_err("rank 1 failed")), Exit::Data);
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
