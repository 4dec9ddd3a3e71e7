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
}

/// The paper's number of columns (§3.2).
pub const NUM_COLUMNS: usize = 2;

/// All ranks of a run. Rank `replica * columns + column` sits at (replica, column).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Copies of the network.
    pub num_replicas: usize,
    /// Ranks a copy is spread over.
    pub num_columns: usize,
}

impl Topology {
    /// The topology of `num_devices` devices.
    ///
    /// # Errors
    /// If the devices do not come in pairs where columns are asked for.
    pub fn new(division: Division, num_devices: usize) -> Result<Self> {
        let num_columns = match division {
            Division::Replicas => 1,
            Division::Columns => NUM_COLUMNS,
        };
        ensure!(
            num_devices > 0 && num_devices.is_multiple_of(num_columns),
            "split mode puts each of the two columns on a device, so it needs an even number of \
             devices, and {num_devices} were asked for; use --gpus 2 (or 4, for two replicas)"
        );
        Ok(Self { num_replicas: num_devices / num_columns, num_columns })
    }

    /// The number of ranks.
    #[must_use]
    pub fn num_ranks(&self) -> usize {
        self.num_replicas * self.num_columns
    }

    /// The replica a rank belongs to: its position on the data axis.
    #[must_use]
    pub fn replica(&self, rank: usize) -> usize {
        rank / self.num_columns
    }

    /// The column a rank computes: its position on the column axis.
    #[must_use]
    pub fn column(&self, rank: usize) -> usize {
        rank % self.num_columns
    }

    /// Each replica's positions within a batch of `batch` images; the first ones take the remainder.
    #[must_use]
    pub fn shares(&self, batch: usize) -> Vec<Range<usize>> {
        let (each, extra) = (batch / self.num_replicas, batch % self.num_replicas);
        let start = |replica: usize| replica * each + replica.min(extra);
        (0..self.num_replicas).map(|replica| start(replica)..start(replica + 1)).collect()
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
    fn an_odd_number_of_devices_has_no_columns() {
        for odd in [0, 1, 3] {
            assert!(Topology::new(Division::Columns, odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn shares_cover_the_batch_in_order_and_differ_by_one_at_most() {
        for (replicas, batch) in [(1, 5), (3, 128), (4, 2)] {
            let shares = Topology { num_replicas: replicas, num_columns: 1 }.shares(batch);
            let all: Vec<_> = shares.iter().cloned().flatten().collect();
            assert_eq!(all, (0..batch).collect::<Vec<_>>());
            let lens: Vec<_> = shares.iter().map(ExactSizeIterator::len).collect();
            assert!(lens.iter().max().zip(lens.iter().min()).is_some_and(|(a, b)| a - b <= 1));
        }
    }
}
