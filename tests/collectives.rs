//! One contract for every collective (`collective::contract`): what each operation leaves on each rank, for
//! any number of ranks, any kind of element, in place or not, and when a peer fails.

mod forwarding;

use std::cell::Cell;
use std::process::Command;
use std::rc::Rc;

use alexnet_mgpu::collective::contract::{self, Clause};
use alexnet_mgpu::collective::{Collective, Narrowed, PeerFailed, Rendezvous, Solo, Wire};
use anyhow::Result;
use forwarding::Forwarding;
use tch::{Device, Kind, Tensor};

/// Runs `work` on every rank of a group of threads.
fn in_process<T: Send>(size: usize, work: impl Fn(&dyn Collective) -> T + Sync) -> Vec<T> {
    let group = Rendezvous::new(size);
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..size)
            .map(|rank| {
                let (group, work) = (group.clone(), &work);
                scope.spawn(move || work(&group.join(rank)))
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
    })
}

fn values(x: &Tensor) -> Vec<f64> {
    Vec::try_from(x.to_kind(Kind::Double).view(-1)).expect("a flat tensor of doubles")
}

/// Checks a clause alone and in groups of one to four threads.
fn everywhere(clause: Clause) {
    clause(&Solo, Device::Cpu).expect("alone");
    for size in 1..=4 {
        for result in in_process(size, |group| clause(group, Device::Cpu)) {
            result.expect("on threads");
        }
    }
}

#[test]
fn all_reduce_leaves_the_sum_on_every_rank() {
    everywhere(contract::all_reduce);
}

#[test]
fn reduce_scatter_leaves_each_rank_its_part_of_the_sum_in_place_or_not() {
    everywhere(contract::reduce_scatter);
}

#[test]
fn all_gather_leaves_every_part_on_every_rank_in_place_or_not() {
    everywhere(contract::all_gather);
}

#[test]
fn all_to_all_brings_each_rank_its_part_of_everyone_s() {
    everywhere(contract::all_to_all);
    // As the trait has it for groups without one of their own.
    everywhere(|group, device| contract::all_to_all(&Forwarding { group, before: || {} }, device));
}

#[test]
fn broadcast_gives_every_rank_the_root_s_values() {
    everywhere(contract::broadcast);
}

#[test]
fn sums_of_bf16_are_the_same_bits_on_every_rank() {
    everywhere(contract::bf16_sums);
}

#[test]
fn sums_of_bf16_between_threads_are_rounded_once() {
    // 256 + 1 + 1 is 258 in bf16; rounded after each addition it would stay 256.
    let sums = in_process(3, |group| {
        let value = if group.rank() == 0 { 256.0 } else { 1.0 };
        let mut x = Tensor::full([3], value, (Kind::BFloat16, Device::Cpu));
        group.all_reduce(&mut x).expect("nobody fails");
        group.flush().expect("nobody fails");
        Vec::<f64>::try_from(x.to_kind(Kind::Double)).expect("a flat tensor")
    });
    assert_eq!(sums, vec![vec![258.0; 3]; 3]);
}

#[test]
fn a_bf16_wire_rounds_what_travels_sums_in_fp32_and_halves_the_bytes() {
    let group = Rendezvous::new(3);
    std::thread::scope(|scope| {
        for rank in 0..3 {
            let group = Box::new(group.join(rank));
            scope.spawn(move || {
                let group = Narrowed::new(group, Wire::at_most(Kind::BFloat16));
                let options = (Kind::Float, Device::Cpu);
                // 1.001 is 1 in bf16; 256 + 1 + 1 would stay 256 if it were rounded in between.
                let value = if rank == 0 { 256.0 } else { 1.001 };
                let mut own = Tensor::zeros([4], options);
                group.reduce_scatter(&Tensor::full([12], value, options), &mut own).expect("well");
                let expected = if rank == 0 { 258.0 } else { 256.0 + 1.0 + 1.001 };
                assert!(values(&own).iter().all(|x| (x - expected).abs() < 1e-4), "{own:?}");
                assert_eq!(group.sent_bytes(), 2 * 2 * 4);

                let shard = Tensor::full([4], value, options);
                let mut all = Tensor::zeros([12], options);
                group.all_gather(&shard, &mut all).expect("well");
                let expected: Vec<_> = [256.0, 1.0, 1.0].into_iter().flat_map(|x| [x; 4]).collect();
                assert_eq!(values(&all), expected, "the same bits on every rank");
                assert_eq!(group.sent_bytes(), 16 + 2 * 2 * 4);

                // What has to be exact is: counts, and what all ranks agree on.
                let mut sum = Tensor::full([1], 1.001, options);
                group.all_reduce(&mut sum).expect("well");
                group.flush().expect("well");
                assert!((values(&sum)[0] - 3.003).abs() < 1e-6);
            });
        }
    });
}

/// Alone, and counts what is begun and not waited for.
struct Beginnings(Rc<Cell<usize>>);

impl Beginnings {
    fn begin(&self, from: &Tensor, to: &mut Tensor) -> Result<()> {
        self.0.set(self.0.get() + 1);
        Ok(to.f_copy_(from)?)
    }
}

impl Collective for Beginnings {
    fn rank(&self) -> usize {
        0
    }
    fn size(&self) -> usize {
        1
    }
    fn all_reduce(&self, x: &mut Tensor) -> Result<()> {
        Solo.all_reduce(x)
    }
    fn all_gather(&self, shard: &Tensor, out: &mut Tensor) -> Result<()> {
        Solo.all_gather(shard, out)
    }
    fn reduce_scatter(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        Solo.reduce_scatter(x, out)
    }
    fn broadcast(&self, x: &mut Tensor, root: usize) -> Result<()> {
        Solo.broadcast(x, root)
    }
    fn begin_all_gather(&self, shard: &Tensor, out: &mut Tensor) -> Result<()> {
        self.begin(shard, out)
    }
    fn begin_reduce_scatter(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.begin(x, out)
    }
    fn begin_all_to_all(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.begin(x, out)
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn sent_bytes(&self) -> u64 {
        0
    }
}

type Begin = fn(&Narrowed, &Tensor, &mut Tensor) -> Result<()>;

const BEGINNINGS: [Begin; 3] =
    [Narrowed::begin_all_gather, Narrowed::begin_reduce_scatter, Narrowed::begin_all_to_all];

#[test]
fn what_a_wire_does_not_narrow_is_begun_and_not_waited_for() {
    let begun = Rc::new(Cell::new(0));
    let group = Narrowed::new(Box::new(Beginnings(begun.clone())), Wire::at_most(Kind::BFloat16));
    for (kind, expected) in [(Kind::BFloat16, 3), (Kind::Float, 0)] {
        begun.set(0);
        let x = Tensor::ones([4], (kind, Device::Cpu));
        for begin in BEGINNINGS {
            let mut out = Tensor::zeros_like(&x);
            begin(&group, &x, &mut out).expect("nobody fails");
            group.flush().expect("nobody fails");
            assert_eq!(values(&out), [1.0; 4], "{kind:?}");
        }
        assert_eq!(begun.get(), expected, "{kind:?}");
    }
}

#[test]
fn a_rank_that_runs_ahead_takes_nothing_from_a_slow_one() {
    everywhere(contract::running_ahead);
}

#[test]
fn results_take_part_in_what_is_computed_next() {
    everywhere(contract::computing_on);
}

#[test]
fn what_was_begun_is_complete_after_a_flush() {
    everywhere(contract::beginning);
}

#[test]
fn bytes_sent_are_those_of_the_documented_algorithms() {
    everywhere(contract::sent_bytes);
}

#[test]
fn shapes_that_do_not_fit_the_group_are_errors() {
    everywhere(contract::shapes);
}

#[test]
fn a_failing_peer_ends_every_wait_now_and_later() {
    let group = Rendezvous::new(2);
    let errors = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let rank = group.join(0);
            let mut x = Tensor::zeros([4], (Kind::Float, Device::Cpu));
            [rank.all_reduce(&mut x), rank.broadcast(&mut x, 0), rank.flush()]
                .map(|result| result.expect_err("the peer never comes"))
        });
        group.poison();
        waiting.join().expect("no panic")
    });
    assert!(errors.iter().all(|error| error.is::<PeerFailed>()), "{errors:?}");
}

/// Runs `gpu-check collectives` in a process of its own.
fn gpu_check(arguments: &[&str]) {
    let program = env!("CARGO_BIN_EXE_alexnet-mgpu");
    let output = Command::new(program).args(["gpu-check", "collectives"]).args(arguments).output();
    let output = output.expect("the program starts");
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}\n{}", text[0], text[1]);
    let num_ok = text[0].lines().filter(|line| line.starts_with("ok  ")).count();
    // One rank has no peer to fail, or to come late.
    let others = if arguments.contains(&"1") { 0 } else { 3 };
    // A GPU that hangs holds up NCCL's operations, and nobody's thread.
    let hanging = usize::from(arguments.contains(&"nccl"));
    assert_eq!(num_ok, contract::CLAUSES.len() + others + hanging, "{}", text[0]);
}

#[test]
fn the_check_for_gpus_passes_on_cpu_threads() {
    for ranks in ["1", "3"] {
        gpu_check(&["--ranks", ranks, "--device", "cpu", "--backend", "in-process"]);
    }
}

#[test]
#[ignore = "needs a GPU, and fails without one: cargo test --test collectives -- --ignored"]
fn threads_keep_the_contract_on_gpus() {
    gpu_check(&["--ranks", "2", "--backend", "in-process"]);
}

#[test]
#[ignore = "needs a GPU and NCCL, and fails without them: cargo test --test collectives -- --ignored"]
fn nccl_keeps_the_contract() {
    for ranks in ["1", "2"] {
        gpu_check(&["--ranks", ranks, "--backend", "nccl"]);
    }
}
