//! One contract for every collective (`collective::contract`): what each operation leaves on each rank, for
//! any number of ranks, any kind of element, in place or not, and when a peer fails.

use std::process::Command;

use alexnet_mgpu::collective::contract::{self, Clause};
use alexnet_mgpu::collective::{Collective, PeerFailed, Rendezvous, Solo};
use anyhow::Result;
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

/// Leaves `all_to_all` to the trait.
struct Plain<'a>(&'a dyn Collective);

impl Collective for Plain<'_> {
    fn rank(&self) -> usize {
        self.0.rank()
    }
    fn size(&self) -> usize {
        self.0.size()
    }
    fn all_reduce(&self, x: &mut Tensor) -> Result<()> {
        self.0.all_reduce(x)
    }
    fn all_gather(&self, shard: &Tensor, out: &mut Tensor) -> Result<()> {
        self.0.all_gather(shard, out)
    }
    fn reduce_scatter(&self, x: &Tensor, out: &mut Tensor) -> Result<()> {
        self.0.reduce_scatter(x, out)
    }
    fn broadcast(&self, x: &mut Tensor, root: usize) -> Result<()> {
        self.0.broadcast(x, root)
    }
    fn flush(&self) -> Result<()> {
        self.0.flush()
    }
    fn sent_bytes(&self) -> u64 {
        self.0.sent_bytes()
    }
}

#[test]
fn all_to_all_brings_each_rank_its_part_of_everyone_s() {
    everywhere(contract::all_to_all);
    everywhere(|group, device| contract::all_to_all(&Plain(group), device));
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
    assert_eq!(num_ok, contract::CLAUSES.len() + 3, "{}", text[0]);
}

#[test]
fn the_check_for_gpus_passes_on_cpu_threads() {
    gpu_check(&["--ranks", "3", "--device", "cpu", "--backend", "in-process"]);
}

#[test]
#[ignore = "needs a GPU, and fails without one: cargo test --test collectives -- --ignored"]
fn threads_keep_the_contract_on_gpus() {
    gpu_check(&["--ranks", "2", "--backend", "in-process"]);
}

#[test]
#[ignore = "needs a GPU and NCCL, and fails without them: cargo test --test collectives -- --ignored"]
fn nccl_keeps_the_contract() {
    gpu_check(&["--ranks", "2", "--backend", "nccl"]);
}
