//! How parameters are cut into the ranges that travel and are updated together, and who updates which
//! part of each.
//!
//! A bucket holds whole parameters with the same holders: those that every replica has are updated by
//! all of them, each its part; those that one rank has are its own business. Nothing here holds memory.

use std::ops::Range;

use tch::Kind;

use super::spec::{Holders, ParamSpec};

/// How the arena is cut: where the buckets end and who updates what.
#[derive(Clone, Copy, Debug)]
pub struct Sharing {
    /// This rank's position among the replicas.
    pub rank: usize,
    /// Their number.
    pub size: usize,
    /// A bucket is closed when it has reached this many bytes of gradients.
    pub bucket_bytes: usize,
}

/// A range of the arena that travels and is updated as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Where in the arena.
    pub range: Range<usize>,
    /// The ranks that hold it: as many equal parts.
    pub num_holders: usize,
    /// Which of the parts this rank updates.
    part: usize,
}

impl Bucket {
    /// The part that this rank updates.
    #[must_use]
    pub fn own(&self) -> Range<usize> {
        let len = self.own_len();
        let first = self.range.start + self.part * len;
        first..first + len
    }

    /// The number of elements this rank updates.
    #[must_use]
    pub fn own_len(&self) -> usize {
        self.range.len() / self.num_holders
    }
}

/// Elements to which the start of a parameter is aligned: one cache line of fp32, and more of bf16.
const ALIGN: usize = 64;

/// Cuts parameters into ranges, and ranges into buckets, both in forward order.
pub(super) fn plan(
    specs: &[ParamSpec],
    kind: Kind,
    sharing: Sharing,
) -> (Vec<Range<usize>>, Vec<Bucket>) {
    let (mut ranges, mut buckets) = (Vec::new(), Vec::new());
    let (mut start, mut end) = (0, 0);
    for (index, spec) in specs.iter().enumerate() {
        let first = usize::next_multiple_of(end, ALIGN);
        end = first + spec.numel();
        ranges.push(first..end);
        let bytes = (end - start) * kind.elt_size_in_bytes();
        let next = specs.get(index + 1);
        if bytes >= sharing.bucket_bytes || next.is_none_or(|next| next.holders != spec.holders) {
            let (num_holders, part) = match spec.holders {
                Holders::Replicas => (sharing.size, sharing.rank),
                Holders::OneRank => (1, 0),
            };
            // Padding makes every rank's part of the bucket equally long.
            end = start + (end - start).next_multiple_of(ALIGN * num_holders);
            buckets.push(Bucket { range: start..end, num_holders, part });
            start = end;
        }
    }
    (ranges, buckets)
}
