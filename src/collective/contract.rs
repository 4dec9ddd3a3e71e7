//! What every [`Collective`] promises, as functions that check it.
//!
//! One place for all implementations: the tests call it on CPU threads, `gpu-check` on GPUs. Every rank of a
//! group calls the same clause. Where a clause takes `device`, the tensors lie there.

use std::time::Duration;

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use super::Collective;

/// A promise; an error says how it was broken.
pub type Clause = fn(&dyn Collective, Device) -> Result<()>;

/// The promises with their names, in the order to check them in.
pub const CLAUSES: [(&str, Clause); 11] = [
    ("all-reduce leaves the sum on every rank", all_reduce),
    ("reduce-scatter leaves each rank its part of the sum, in place or not", reduce_scatter),
    ("all-gather leaves every part on every rank, in place or not", all_gather),
    ("all-to-all brings each rank its part of everyone's", all_to_all),
    ("broadcast gives every rank the root's values", broadcast),
    ("sums of bf16 are the same bits on every rank", bf16_sums),
    ("a rank that runs ahead takes nothing from a slow one", running_ahead),
    ("results take part in what is computed next", computing_on),
    ("what was begun is complete after a flush", beginning),
    ("bytes sent are those of the documented algorithms", sent_bytes),
    ("shapes and kinds that do not fit are errors", shapes),
];

/// `[len]`: the rank's digit in front, the element's index behind: 2003 is element 3 of rank 2.
fn mine(group: &dyn Collective, len: usize, kind: Kind, device: Device) -> Tensor {
    theirs(group.rank(), len, kind, device)
}

fn theirs(rank: usize, len: usize, kind: Kind, device: Device) -> Tensor {
    (Tensor::arange(len as i64, (Kind::Double, device)) + 1000.0 * rank as f64).to_kind(kind)
}

fn zeros(len: usize, kind: Kind, device: Device) -> Tensor {
    Tensor::zeros([len as i64], (kind, device))
}

fn values(x: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::try_from(x.to_kind(Kind::Double).view(-1).to_device(Device::Cpu))?)
}

fn expect(what: &str, group: &dyn Collective, found: &Tensor, expected: &[f64]) -> Result<()> {
    let (rank, size, found) = (group.rank(), group.size(), values(found)?);
    ensure!(found == expected, "{what}, rank {rank} of {size}: {found:?} instead of {expected:?}");
    Ok(())
}

/// The sum over the group of element `index`.
fn sum(group: &dyn Collective, index: usize) -> f64 {
    (0..group.size()).map(|rank| (1000 * rank + index) as f64).sum()
}

/// # Errors
/// If it does not hold.
pub fn all_reduce(group: &dyn Collective, device: Device) -> Result<()> {
    // Five elements do not divide among two, three or four ranks; one leaves most without any.
    for (len, kind) in [(5, Kind::Double), (1, Kind::Float), (64, Kind::Float)] {
        let mut x = mine(group, len, kind, device);
        group.all_reduce(&mut x)?;
        group.flush()?;
        let expected: Vec<_> = (0..len).map(|i| sum(group, i)).collect();
        expect("all-reduce", group, &x, &expected)?;
    }
    Ok(())
}

/// # Errors
/// If it does not hold.
pub fn reduce_scatter(group: &dyn Collective, device: Device) -> Result<()> {
    let (rank, size) = (group.rank(), group.size());
    let expected: Vec<_> = (3 * rank..3 * rank + 3).map(|i| sum(group, i)).collect();
    for kind in [Kind::Double, Kind::Float] {
        let x = mine(group, 3 * size, kind, device);
        let mut out = zeros(3, kind, device);
        group.reduce_scatter(&x, &mut out)?;
        expect("reduce-scatter", group, &out, &expected)?;
        let mut own = x.narrow(0, 3 * rank as i64, 3);
        group.reduce_scatter(&x, &mut own)?;
        group.flush()?;
        expect("reduce-scatter in place", group, &own, &expected)?;
    }
    Ok(())
}

/// # Errors
/// If it does not hold.
pub fn all_gather(group: &dyn Collective, device: Device) -> Result<()> {
    let (rank, size) = (group.rank(), group.size());
    let shard = mine(group, 2, Kind::Float, device);
    let expected: Vec<_> = (0..size).flat_map(|r| [0, 1].map(|i| (1000 * r + i) as f64)).collect();
    let mut out = zeros(2 * size, Kind::Float, device);
    group.all_gather(&shard, &mut out)?;
    expect("all-gather", group, &out, &expected)?;
    group.flush()?;
    let mut whole = Tensor::zeros_like(&out);
    let mut own = whole.narrow(0, 2 * rank as i64, 2);
    own.copy_(&shard);
    group.all_gather(&own, &mut whole)?;
    group.flush()?;
    expect("all-gather in place", group, &whole, &expected)
}

/// # Errors
/// If it does not hold.
pub fn all_to_all(group: &dyn Collective, device: Device) -> Result<()> {
    let (rank, size) = (group.rank(), group.size());
    let x = mine(group, 2 * size, Kind::Float, device);
    let mut out = Tensor::zeros_like(&x);
    group.all_to_all(&x, &mut out)?;
    let part = |r: usize| [2 * rank, 2 * rank + 1].map(|i| (1000 * r + i) as f64);
    expect("all-to-all", group, &out, &(0..size).flat_map(part).collect::<Vec<_>>())?;
    group.flush()
}

/// # Errors
/// If it does not hold.
pub fn broadcast(group: &dyn Collective, device: Device) -> Result<()> {
    let root = group.size() - 1;
    for kind in [Kind::Int64, Kind::Float, Kind::BFloat16] {
        let mut x = mine(group, 4, kind, device);
        group.broadcast(&mut x, root)?;
        expect("broadcast", group, &x, &values(&theirs(root, 4, kind, device))?)?;
    }
    Ok(())
}

/// Between two ranks a sum is rounded once; among more, rounding may come at every hop of a ring.
///
/// # Errors
/// If it does not hold.
pub fn bf16_sums(group: &dyn Collective, device: Device) -> Result<()> {
    let value = if group.rank() == 0 { 256.0 } else { 1.0 };
    let mut x = Tensor::full([3], value, (Kind::BFloat16, device));
    group.all_reduce(&mut x)?;
    group.flush()?;
    let found = values(&x)?;
    let exact = 255.0 + group.size() as f64;
    // bf16 has eight bits: its numbers around 256 are two apart.
    let far = 2.0 * (group.size() as f64 - 1.0);
    ensure!(found.iter().all(|x| (x - exact).abs() <= far), "{found:?} instead of {exact}");
    let mut all = zeros(3 * group.size(), Kind::BFloat16, device);
    group.all_gather(&x, &mut all)?;
    group.flush()?;
    expect("the sums of all ranks", group, &all, &found.repeat(group.size()))
}

/// # Errors
/// If it does not hold.
pub fn running_ahead(group: &dyn Collective, device: Device) -> Result<()> {
    let size = group.size();
    for round in 0..200 {
        if group.rank() == round % size {
            std::thread::sleep(Duration::from_micros(50));
        }
        let shard = mine(group, 1, Kind::Double, device) + round as f64;
        let mut out = zeros(size, Kind::Double, device);
        group.all_gather(&shard, &mut out)?;
        let expected: Vec<_> = (0..size).map(|rank| (1000 * rank + round) as f64).collect();
        expect(&format!("round {round}"), group, &out, &expected)?;
    }
    group.flush()
}

/// Elements that take a device long enough to be caught unfinished.
const MANY: usize = 1 << 20;

/// # Errors
/// If it does not hold.
pub fn computing_on(group: &dyn Collective, device: Device) -> Result<()> {
    let size = group.size() as f64;
    let mut x = Tensor::ones([MANY as i64], (Kind::Float, device));
    for round in 0..8 {
        // Computed just before, added up, and computed with just after, without a wait in between.
        let mut y = (&x * 2.0 + 1.0) / 3.0; // 1 everywhere
        group.all_reduce(&mut y)?;
        x = y / size;
        let mean = x.mean(Kind::Double).double_value(&[]);
        ensure!((mean - 1.0).abs() < 1e-6, "round {round}: the mean is {mean} instead of 1");
    }
    group.flush()
}

/// # Errors
/// If it does not hold.
pub fn beginning(group: &dyn Collective, device: Device) -> Result<()> {
    let (rank, size) = (group.rank(), group.size());
    let ones = Tensor::ones([(MANY * size) as i64], (Kind::Float, device));
    let mut parts: Vec<_> = (0..4).map(|_| zeros(MANY, Kind::Float, device)).collect();
    for (i, part) in parts.iter_mut().enumerate() {
        group.begin_reduce_scatter(&(&ones * (i + 1) as f64), part)?;
    }
    group.flush()?;
    let mut all: Vec<_> = (0..4).map(|_| zeros(MANY * size, Kind::Float, device)).collect();
    for (part, all) in parts.iter_mut().zip(&mut all) {
        *part += rank as f64;
        group.begin_all_gather(part, all)?;
    }
    let mut exchanged = Tensor::zeros_like(&ones);
    group.begin_all_to_all(&ones, &mut exchanged)?;
    group.flush()?;
    for (i, all) in all.iter().enumerate() {
        let expected: Vec<_> = (0..size).map(|r| (size * (i + 1) + r) as f64).collect();
        let means = all.view([size as i64, -1]).mean_dim(1, false, Kind::Double);
        expect(&format!("begun operation {i}"), group, &means, &expected)?;
    }
    let sum = exchanged.sum(Kind::Double).double_value(&[]);
    ensure!(sum == (MANY * size) as f64, "all-to-all, begun: {sum} ones of {}", MANY * size);
    Ok(())
}

/// # Errors
/// If it does not hold.
pub fn sent_bytes(group: &dyn Collective, device: Device) -> Result<()> {
    let (rank, n) = (group.rank(), group.size());
    let mut x = zeros(2 * n, Kind::Float, device);
    let s = 4 * 2 * n;
    let own = |x: &Tensor| x.narrow(0, 2 * rank as i64, 2);
    let before = group.sent_bytes();
    let mut so_far = 0;
    let mut sent = |what: &str, bytes: usize| {
        so_far += bytes as u64;
        let found = group.sent_bytes() - before;
        ensure!(found == so_far, "{what}: {found} bytes in all instead of {so_far}");
        Ok(())
    };
    group.all_reduce(&mut x)?;
    sent("all-reduce", 2 * (n - 1) * s / n)?;
    group.reduce_scatter(&x, &mut own(&x))?;
    sent("reduce-scatter", (n - 1) * s / n)?;
    group.all_gather(&own(&x), &mut x)?;
    sent("all-gather", (n - 1) * s / n)?;
    group.all_to_all(&x, &mut Tensor::zeros_like(&x))?;
    sent("all-to-all", (n - 1) * s / n)?;
    group.broadcast(&mut x, n - 1)?;
    sent("broadcast", if rank == n - 1 { (n - 1) * s } else { 0 })?;
    group.flush()
}

/// # Errors
/// If it does not hold.
pub fn shapes(group: &dyn Collective, device: Device) -> Result<()> {
    if group.size() == 1 {
        return Ok(());
    }
    let x = zeros(2 * group.size() + 1, Kind::Float, device);
    let mut out = zeros(2, Kind::Float, device);
    let refused = [
        group.reduce_scatter(&x, &mut out).is_err(),
        group.all_gather(&x, &mut out).is_err(),
        group.all_to_all(&x, &mut out).is_err(),
    ];
    ensure!(refused == [true; 3], "reduce-scatter, all-gather, all-to-all refused: {refused:?}");
    let whole = zeros(2 * group.size(), Kind::Float, device);
    let of_doubles = |len| zeros(len, Kind::Double, device);
    let refused = [
        group.reduce_scatter(&whole, &mut of_doubles(2)).is_err(),
        group.all_gather(&out, &mut of_doubles(2 * group.size())).is_err(),
        group.all_to_all(&whole, &mut of_doubles(2 * group.size())).is_err(),
    ];
    ensure!(refused == [true; 3], "the same with other kinds refused: {refused:?}");
    Ok(())
}
