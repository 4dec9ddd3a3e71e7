//! Who computes what: from a mode and a number of devices to one place per rank.
//!
//! Columns belong to the model; device boundaries belong to the placement. This is a pure function that
//! knows no device, no tensor and no network.

use std::ops::Range;

use anyhow::{Result, ensure};

/// How the ranks divide the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Division {
    /// Every rank holds the whole network and takes a share of each batch.
    Replicas,
    /// Pairs of ranks hold one column each; pairs take shares of each batch.
    Columns,
    /// Every rank holds all convolutions and takes a share of each batch through them; of each
    /// fully-connected layer it holds a slice, which sees the whole batch (Krizhevsky 2014).
    Hybrid,
}

/// The paper's number of columns (§3.2).
pub const NUM_COLUMNS: usize = 2;

/// Cuts `total` into `num` ranges in order, one at most longer than another; the first ones take the
/// remainder.
#[must_use]
pub fn parts(total: usize, num: usize) -> Vec<Range<usize>> {
    let (each, extra) = (total / num, total % num);
    let start = |index: usize| index * each + index.min(extra);
    (0..num).map(|index| start(index)..start(index + 1)).collect()
}

/// All ranks of a run. Rank `replica * columns + column` sits at (replica, column).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// What the ranks hold.
    pub division: Division,
    /// Copies of the convolutions, and so shares of the batch.
    pub num_replicas: usize,
    /// Ranks that a copy of the convolutions is spread over.
    pub num_columns: usize,
}

/// Along what ranks form groups: all groups have the same size, and a rank is in one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Ranks that hold the same parameters and exchange gradients.
    Data,
    /// Ranks that hold different parts of the same layers and exchange activations.
    Columns,
}

/// A rank's place in the groups of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Which group.
    pub group: usize,
    /// The position in it.
    pub position: usize,
}

impl Topology {
    /// The topology of `num_devices` devices.
    ///
    /// # Errors
    /// If the devices do not come in pairs where columns are asked for.
    pub fn new(division: Division, num_devices: usize) -> Result<Self> {
        let num_columns = match division {
            Division::Replicas | Division::Hybrid => 1,
            Division::Columns => NUM_COLUMNS,
        };
        ensure!(
            num_devices > 0 && num_devices.is_multiple_of(num_columns),
            "split mode puts each of the two columns on a device, so it needs an even number of \
             devices, and {num_devices} were asked for; use --gpus 2 (or 4, for two replicas)"
        );
        Ok(Self { division, num_replicas: num_devices / num_columns, num_columns })
    }

    /// The number of ranks.
    #[must_use]
    pub fn num_ranks(&self) -> usize {
        self.num_replicas * self.num_columns
    }

    /// The number of groups along `axis`, and of ranks in each.
    #[must_use]
    pub fn groups(&self, axis: Axis) -> (usize, usize) {
        match (axis, self.division) {
            (Axis::Data, _) => (self.num_columns, self.num_replicas),
            (Axis::Columns, Division::Hybrid) => (1, self.num_replicas),
            (Axis::Columns, _) => (self.num_replicas, self.num_columns),
        }
    }

    /// Where a rank sits along `axis`.
    #[must_use]
    pub fn seat(&self, axis: Axis, rank: usize) -> Seat {
        let (replica, column) = (self.replica(rank), self.column(rank));
        match (axis, self.division) {
            (Axis::Data, _) => Seat { group: column, position: replica },
            (Axis::Columns, Division::Hybrid) => Seat { group: 0, position: rank },
            (Axis::Columns, _) => Seat { group: replica, position: column },
        }
    }

    /// The replica a rank belongs to: its position on the data axis.
    #[must_use]
    pub fn replica(&self, rank: usize) -> usize {
        rank / self.num_columns
    }

    /// The column of the convolutions that a rank computes.
    #[must_use]
    pub fn column(&self, rank: usize) -> usize {
        rank % self.num_columns
    }

    /// Each replica's positions within a batch of `batch` images.
    #[must_use]
    pub fn shares(&self, batch: usize) -> Vec<Range<usize>> {
        parts(batch, self.num_replicas)
    }
}

impl std::fmt::Display for Topology {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { num_replicas, num_columns, .. } = self;
        match self.division {
            Division::Hybrid => write!(
                f,
                "{num_replicas} replica(s) of the convolutions and as many slices of the \
                 fully-connected layers"
            ),
            _ => write!(f, "{num_replicas} replica(s) of {num_columns} column(s)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_devices_in_columns_are_two_replicas_of_two_columns() {
        let topology = Topology::new(Division::Columns, 4).expect("even");
        let places: Vec<_> = (0..4).map(|r| (topology.replica(r), topology.column(r))).collect();
        assert_eq!(places, [(0, 0), (0, 1), (1, 0), (1, 1)]);
    }

    #[test]
    fn every_seat_of_every_group_is_taken_once() {
        for (division, num) in [
            (Division::Replicas, 3),
            (Division::Columns, 2),
            (Division::Columns, 6),
            (Division::Hybrid, 1),
            (Division::Hybrid, 3),
        ] {
            let topology = Topology::new(division, num).expect("it divides");
            for axis in [Axis::Data, Axis::Columns] {
                let (num_groups, size) = topology.groups(axis);
                let mut seats: Vec<_> = (0..num)
                    .map(|rank| topology.seat(axis, rank))
                    .map(|Seat { group, position }| (group, position))
                    .collect();
                seats.sort_unstable();
                let all: Vec<_> =
                    (0..num_groups).flat_map(|g| (0..size).map(move |p| (g, p))).collect();
                assert_eq!(seats, all, "{division:?}, {num}, {axis:?}");
            }
        }
    }

    #[test]
    fn hybrid_ranks_are_in_one_group_on_both_axes() {
        let topology = Topology::new(Division::Hybrid, 3).expect("any number");
        assert_eq!((topology.groups(Axis::Data), topology.groups(Axis::Columns)), ((1, 3), (1, 3)));
        assert_eq!((topology.replica(2), topology.column(2)), (2, 0));
    }

    #[test]
    fn an_odd_number_of_devices_has_no_columns() {
        for odd in [0, 1, 3] {
            assert!(Topology::new(Division::Columns, odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn shares_cover_the_batch_in_order_and_differ_by_one_at_most() {
        for (replicas, batch) in [(1, 5), (3, 128), (4, 2)] {
            let topology = Topology::new(Division::Replicas, replicas).expect("any number");
            let shares = topology.shares(batch);
            let all: Vec<_> = shares.iter().cloned().flatten().collect();
            assert_eq!(all, (0..batch).collect::<Vec<_>>());
            let lens: Vec<_> = shares.iter().map(ExactSizeIterator::len).collect();
            assert!(lens.iter().max().zip(lens.iter().min()).is_some_and(|(a, b)| a - b <= 1));
        }
    }
}
