//! The groups of ranks on the two axes, and each rank's ends of its two groups.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Result, bail};
use tch::Device;

use super::{Place, World};
use crate::backend::Backend;
use crate::collective::watchdog::{Abortable, Journal, Member, Watchdog};
use crate::collective::{Collective, Rendezvous, Solo, Watched, nccl};
use crate::topology::{Axis, Seat, Topology};

/// The meeting places of all groups on both axes.
pub(super) struct Axes {
    data: Vec<Group>,
    columns: Vec<Group>,
}

enum Group {
    Alone,
    Threads(Rendezvous),
    Nccl(nccl::Rendezvous),
}

/// What a rank needs to join its groups.
struct Joining<'a> {
    rank: usize,
    step: Arc<AtomicU64>,
    /// Made by the first group that needs it.
    streams: Option<Rc<nccl::Streams>>,
    device: Device,
    watchdog: &'a Watchdog,
    ends: Vec<Arc<dyn Abortable>>,
}

impl Axes {
    /// # Errors
    /// If NCCL is to be used and cannot be.
    pub(super) fn new(topology: Topology, backend: Backend) -> Result<Self> {
        let groups = |axis| -> Result<_> {
            let (num, size) = topology.groups(axis);
            (0..num).map(|_| Group::new(size, topology.num_ranks(), backend)).collect()
        };
        Ok(Self { data: groups(Axis::Data)?, columns: groups(Axis::Columns)? })
    }

    /// Every end that ranks will have of groups with peers.
    pub(super) fn members(topology: Topology) -> impl Iterator<Item = Member> {
        [Axis::Data, Axis::Columns]
            .into_iter()
            .filter(move |axis| topology.groups(*axis).1 > 1)
            .flat_map(move |axis| {
                let of = move |rank| Member {
                    rank,
                    axis: in_words(axis),
                    group: topology.seat(axis, rank).group,
                };
                (0..topology.num_ranks()).map(of)
            })
    }

    /// The place of `rank`, made on its thread, and what is to be finished after its work.
    ///
    /// # Errors
    /// If a peer fails first, or NCCL does.
    pub(super) fn place(
        &self,
        world: &World,
        rank: usize,
        watchdog: &Watchdog,
    ) -> Result<(Place, Vec<Arc<dyn Abortable>>)> {
        let (replica, column) = (world.topology.replica(rank), world.topology.column(rank));
        let device = world.devices[rank];
        let step = Arc::new(AtomicU64::new(0));
        let mut joining = Joining {
            rank,
            step: Arc::clone(&step),
            streams: None,
            device,
            watchdog,
            ends: vec![],
        };
        // In this order on every rank: joining waits for the others.
        let seat = |axis| world.topology.seat(axis, rank);
        let data = joining.join(&self.data, Axis::Data, seat(Axis::Data))?;
        let columns = joining.join(&self.columns, Axis::Columns, seat(Axis::Columns))?;
        Ok((Place { rank, replica, column, device, data, columns, step }, joining.ends))
    }
}

/// The axis in messages.
fn in_words(axis: Axis) -> &'static str {
    match axis {
        Axis::Data => "data",
        Axis::Columns => "column",
    }
}

impl Group {
    /// A group of one needs nothing, but NCCL is asked for by name where the run has one rank: it is to be
    /// tried.
    fn new(size: usize, num_ranks: usize, backend: Backend) -> Result<Self> {
        Ok(match (size, backend) {
            (1, Backend::Nccl) if num_ranks == 1 => Self::Nccl(nccl::Rendezvous::new(1)?),
            (1, _) => Self::Alone,
            (_, Backend::InProcess) => Self::Threads(Rendezvous::new(size)),
            (_, Backend::Nccl) => Self::Nccl(nccl::Rendezvous::new(size)?),
        })
    }
}

impl Joining<'_> {
    fn join(
        &mut self,
        groups: &[Group],
        axis: Axis,
        Seat { group, position }: Seat,
    ) -> Result<Box<dyn Collective>> {
        let member = Member { rank: self.rank, axis: in_words(axis), group };
        let journal = Journal::new(member, Arc::clone(&self.step));
        match &groups[group] {
            Group::Alone => Ok(Box::new(Solo)),
            Group::Threads(group) => {
                let end = Watched::join(group, position, journal);
                self.watchdog.watch(end.end());
                Ok(Box::new(end))
            }
            Group::Nccl(group) => {
                let streams = self.streams()?;
                let end = group.join(position, &streams, journal, self.watchdog)?;
                self.ends.push(end.end());
                Ok(Box::new(end))
            }
        }
    }

    /// Both groups of a rank send on one stream.
    fn streams(&mut self) -> Result<Rc<nccl::Streams>> {
        let Device::Cuda(device) = self.device else {
            bail!("NCCL connects GPUs, not CPU threads")
        };
        let streams = match self.streams.take() {
            Some(streams) => streams,
            None => Rc::new(nccl::Streams::new(device)?),
        };
        Ok(Rc::clone(self.streams.insert(streams)))
    }
}
