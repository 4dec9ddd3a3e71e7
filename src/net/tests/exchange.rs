//! Layers that talk to other ranks, against autograd of the same function on one: gathers and the way
//! back from the whole batch, with parts of equal and of different lengths.

use tch::{Kind, Tensor};

use super::{assert_close, input, pass};
use crate::collective::{Collective, Rendezvous};
use crate::net::gather::{Gather, Parts};
use crate::net::scatter::Scatter;
use crate::net::{GatherGradient, Layer, Pass};

/// What each rank's layer makes of `xs[rank]`, and gets back for `dys[rank]`.
fn on_ranks<L: Layer>(
    layer: impl Fn() -> L + Sync,
    shares: &[usize],
    xs: &[Tensor],
    dys: &[Tensor],
) -> Vec<(Tensor, Tensor)> {
    let group = Rendezvous::new(xs.len());
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..xs.len())
            .map(|rank| {
                let (x, dy) = (xs[rank].copy(), dys[rank].copy());
                let (group, layer) = (group.clone(), &layer);
                scope.spawn(move || {
                    let (group, mut layer) = (group.join(rank), layer());
                    let pass = Pass { shares, ..pass(&group) };
                    let y = layer.forward(x, &pass).expect("all ranks take part");
                    let dx = layer.backward(dy, &pass).expect("after a forward");
                    group.flush().expect("nobody failed");
                    (y, dx.expect("a gradient for each rank"))
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
    })
}

fn leaves(shapes: &[&[i64]]) -> Vec<Tensor> {
    let leaf = |(i, shape): (usize, &&[i64])| input(shape, 21 + i as u64).set_requires_grad(true);
    shapes.iter().enumerate().map(leaf).collect()
}

fn detached(leaves: &[Tensor]) -> Vec<Tensor> {
    leaves.iter().map(Tensor::detach).collect()
}

/// Holds a gather of `shapes` along `dim` before layers that compute some of the outputs each: the loss
/// is the sum of what all ranks make of the whole.
fn gathers(parts: Parts, dim: i64, shares: &[usize], shapes: &[&[i64]]) {
    let leaves = leaves(shapes);
    let whole = Tensor::cat(&leaves, dim);
    let dys: Vec<_> = (0..shapes.len()).map(|i| input(&whole.size(), 31 + i as u64)).collect();
    let sum = dys.iter().map(|dy| &whole * dy).reduce(|a, b| a + b).expect("there are ranks");
    sum.sum(Kind::Double).backward();
    let layer = || Gather::new("gather".into(), parts, GatherGradient::Partial);
    let got = on_ranks(layer, shares, &detached(&leaves), &dys);
    for ((y, dx), leaf) in got.iter().zip(&leaves) {
        assert_close("forward", y, &whole.detach(), 0.0);
        assert_close("dx", dx, &leaf.grad(), 1e-15);
    }
}

#[test]
fn a_gather_hands_each_column_the_gradient_of_what_all_ranks_made_of_it() {
    gathers(Parts::Channels(12), -1, &[], &[&[3, 4, 4, 6], &[3, 4, 4, 6]]);
}

#[test]
fn slices_of_different_widths_are_gathered_too() {
    gathers(Parts::Channels(8), -1, &[], &[&[5, 3], &[5, 3], &[5, 2]]);
}

#[test]
fn shares_of_a_batch_are_gathered_whether_or_not_they_are_equal() {
    gathers(Parts::Images, 0, &[2, 2], &[&[2, 5], &[2, 5]]);
    gathers(Parts::Images, 0, &[3, 2, 2], &[&[3, 5], &[2, 5], &[2, 5]]);
}

#[test]
fn a_gather_before_replicated_outputs_counts_the_gradient_once() {
    let leaves = leaves(&[&[4, 5], &[4, 5]]);
    let whole = Tensor::cat(&leaves, 1);
    let dy = input(&whole.size(), 33);
    // Every rank computes all outputs of the same loss.
    (&whole * &dy).sum(Kind::Double).backward();
    let layer = || Gather::new("gather".into(), Parts::Channels(10), GatherGradient::Replicated);
    let got = on_ranks(layer, &[], &detached(&leaves), &[dy.copy(), dy]);
    for ((_, dx), leaf) in got.iter().zip(&leaves) {
        assert_close("dx", dx, &leaf.grad(), 0.0);
    }
}

/// Holds a scatter of slices of these widths, of a batch in these shares.
fn scatters(shares: &[usize], widths: &[i64]) {
    let (batch, units) = (shares.iter().sum::<usize>() as i64, widths.iter().sum::<i64>());
    let shapes: Vec<_> = widths.iter().map(|&width| [batch, width]).collect();
    let leaves = leaves(&shapes.iter().map(|shape| &shape[..]).collect::<Vec<_>>());
    let whole = Tensor::cat(&leaves, 1);
    let lens: Vec<_> = shares.iter().map(|&share| share as i64).collect();
    let dys: Vec<_> =
        lens.iter().enumerate().map(|(i, &len)| input(&[len, units], 41 + i as u64)).collect();
    (&whole * Tensor::cat(&dys, 0)).sum(Kind::Double).backward();
    let expected = whole.detach().split_with_sizes(&lens[..], 0);
    let layer = || Scatter::new("scatter".into(), units as usize);
    let got = on_ranks(layer, shares, &detached(&leaves), &dys);
    for (((y, dx), leaf), expected) in got.iter().zip(&leaves).zip(&expected) {
        assert_close("forward", y, expected, 0.0);
        if leaf.numel() > 0 {
            assert_close("dx", dx, &leaf.grad(), 0.0);
        }
        assert_eq!(dx.size(), leaf.size());
    }
}

#[test]
fn each_rank_gets_all_units_of_its_share_and_gives_back_their_gradient() {
    scatters(&[2, 2], &[3, 3]);
    scatters(&[3, 2, 2], &[4, 3, 3]);
    // More ranks than units leave the last without any.
    scatters(&[2, 2, 1], &[1, 1, 0]);
}
