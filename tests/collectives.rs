//! One contract for every collective: what each operation leaves on each rank, for any number of ranks,
//! any kind of element, in place or not, and when a peer fails.

use std::time::Duration;

use alexnet_mgpu::collective::{Collective, PeerFailed, Rendezvous, Solo};
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

/// Runs `work` on every implementation of the trait, in groups of one to four.
fn everywhere(work: impl Fn(&dyn Collective) + Sync) {
    work(&Solo);
    for size in 1..=4 {
        in_process(size, &work);
    }
}

/// `[len]`: the rank's digit in front, the element's index behind: 2003 is element 3 of rank 2.
fn mine(rank: usize, len: usize, kind: Kind) -> Tensor {
    (Tensor::arange(len as i64, (Kind::Double, Device::Cpu)) + 1000.0 * rank as f64).to_kind(kind)
}

fn values(x: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(x.to_kind(Kind::Double).view(-1)).expect("a flat tensor")
}

/// The sum over `size` ranks of element `index`.
fn sum(size: usize, index: usize) -> f64 {
    (0..size).map(|rank| (1000 * rank + index) as f64).sum()
}

#[test]
fn all_reduce_leaves_the_sum_on_every_rank() {
    everywhere(|group| {
        // Five elements do not divide among two, three or four ranks; one leaves most without any.
        for (len, kind) in [(5, Kind::Double), (1, Kind::Float), (64, Kind::Float)] {
            let mut x = mine(group.rank(), len, kind);
            group.all_reduce(&mut x).expect("nobody fails");
            group.flush().expect("nobody fails");
            let expected: Vec<_> = (0..len).map(|i| sum(group.size(), i)).collect();
            assert_eq!(values(&x), expected);
        }
    });
}

#[test]
fn reduce_scatter_leaves_each_rank_its_part_of_the_sum_in_place_or_not() {
    everywhere(|group| {
        let (rank, size) = (group.rank(), group.size());
        let expected: Vec<_> = (3 * rank..3 * rank + 3).map(|i| sum(size, i)).collect();
        let x = mine(rank, 3 * size, Kind::Double);
        let mut out = Tensor::zeros([3], (Kind::Double, Device::Cpu));
        group.reduce_scatter(&x, &mut out).expect("nobody fails");
        assert_eq!(values(&out), expected);
        let mut own = x.narrow(0, 3 * rank as i64, 3);
        group.reduce_scatter(&x, &mut own).expect("nobody fails");
        group.flush().expect("nobody fails");
        assert_eq!(values(&own), expected);
    });
}

#[test]
fn all_gather_leaves_every_part_on_every_rank_in_place_or_not() {
    everywhere(|group| {
        let (rank, size) = (group.rank(), group.size());
        let shard = mine(rank, 2, Kind::Float);
        let expected: Vec<_> = (0..size).flat_map(|r| values(&mine(r, 2, Kind::Float))).collect();
        let mut out = Tensor::zeros([2 * size as i64], (Kind::Float, Device::Cpu));
        group.all_gather(&shard, &mut out).expect("nobody fails");
        assert_eq!(values(&out), expected);
        group.flush().expect("nobody fails");
        let mut whole = Tensor::zeros_like(&out);
        let mut own = whole.narrow(0, 2 * rank as i64, 2);
        own.copy_(&shard);
        group.all_gather(&own, &mut whole).expect("nobody fails");
        group.flush().expect("nobody fails");
        assert_eq!(values(&whole), expected);
    });
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
    fn all_reduce(&self, x: &mut Tensor) -> anyhow::Result<()> {
        self.0.all_reduce(x)
    }
    fn all_gather(&self, shard: &Tensor, out: &mut Tensor) -> anyhow::Result<()> {
        self.0.all_gather(shard, out)
    }
    fn reduce_scatter(&self, x: &Tensor, out: &mut Tensor) -> anyhow::Result<()> {
        self.0.reduce_scatter(x, out)
    }
    fn broadcast(&self, x: &mut Tensor, root: usize) -> anyhow::Result<()> {
        self.0.broadcast(x, root)
    }
    fn flush(&self) -> anyhow::Result<()> {
        self.0.flush()
    }
    fn sent_bytes(&self) -> u64 {
        self.0.sent_bytes()
    }
}

#[test]
fn all_to_all_brings_each_rank_its_part_of_everyone_s() {
    let check = |group: &dyn Collective| {
        let (rank, size) = (group.rank(), group.size());
        let x = mine(rank, 2 * size, Kind::Float);
        let mut out = Tensor::zeros_like(&x);
        group.all_to_all(&x, &mut out).expect("nobody fails");
        let part = |r: usize| [2 * rank, 2 * rank + 1].map(|i| (1000 * r + i) as f64);
        assert_eq!(values(&out), (0..size).flat_map(part).collect::<Vec<_>>());
        group.flush().expect("nobody fails");
    };
    everywhere(check);
    everywhere(|group| check(&Plain(group)));
}

#[test]
fn broadcast_gives_every_rank_the_root_s_values() {
    everywhere(|group| {
        let root = group.size() - 1;
        let mut x = mine(group.rank(), 4, Kind::Int64);
        group.broadcast(&mut x, root).expect("nobody fails");
        assert_eq!(values(&x), values(&mine(root, 4, Kind::Int64)));
    });
}

#[test]
fn sums_of_bf16_are_rounded_once_and_are_the_same_bits_on_every_rank() {
    // 256 + 1 + 1 is 258 in bf16; rounded after each addition it would stay 256.
    let sums = in_process(3, |group| {
        let value = if group.rank() == 0 { 256.0 } else { 1.0 };
        let mut x = Tensor::full([3], value, (Kind::BFloat16, Device::Cpu));
        group.all_reduce(&mut x).expect("nobody fails");
        group.flush().expect("nobody fails");
        values(&x)
    });
    assert_eq!(sums, vec![vec![258.0; 3]; 3]);
}

#[test]
fn a_rank_that_runs_ahead_takes_nothing_from_a_slow_one() {
    in_process(3, |group| {
        for round in 0..200 {
            if group.rank() == round % 3 {
                std::thread::sleep(Duration::from_micros(50));
            }
            let shard = mine(group.rank(), 1, Kind::Double) + round as f64;
            let mut out = Tensor::zeros([3], (Kind::Double, Device::Cpu));
            group.all_gather(&shard, &mut out).expect("nobody fails");
            let expected: Vec<_> = (0..3).map(|rank| (1000 * rank + round) as f64).collect();
            assert_eq!(values(&out), expected, "round {round}");
        }
    });
}

#[test]
fn bytes_sent_are_those_of_the_documented_algorithms() {
    in_process(4, |group| {
        let mut x = Tensor::zeros([8], (Kind::Float, Device::Cpu));
        group.all_reduce(&mut x).expect("nobody fails");
        assert_eq!(group.sent_bytes(), 2 * 32 * 3 / 4);
        group.reduce_scatter(&x, &mut x.narrow(0, 2 * group.rank() as i64, 2)).expect("well");
        assert_eq!(group.sent_bytes(), 48 + 24);
        group.all_gather(&x.narrow(0, 2 * group.rank() as i64, 2), &mut x).expect("well");
        assert_eq!(group.sent_bytes(), 48 + 24 + 24);
        group.all_to_all(&x, &mut Tensor::zeros_like(&x)).expect("well");
        assert_eq!(group.sent_bytes(), 48 + 24 + 24 + 24);
        group.broadcast(&mut x, 3).expect("well");
        let sent = if group.rank() == 3 { 3 * 32 } else { 0 };
        assert_eq!(group.sent_bytes(), 48 + 24 + 24 + 24 + sent);
        group.flush().expect("nobody fails");
    });
}

#[test]
fn shapes_that_do_not_fit_the_group_are_errors() {
    let group = Rendezvous::new(2);
    let rank = group.join(0);
    let x = Tensor::zeros([3], (Kind::Float, Device::Cpu));
    let mut out = Tensor::zeros([2], (Kind::Float, Device::Cpu));
    assert!(rank.reduce_scatter(&x, &mut out).is_err());
    assert!(rank.all_gather(&x, &mut out).is_err());
    assert!(rank.all_to_all(&x, &mut out).is_err());
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
