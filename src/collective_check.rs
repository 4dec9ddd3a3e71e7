//! `gpu-check collectives`: whether exchanges keep their contract on these devices, checked by the program itself.
//!
//! Machines with GPUs often have no Rust, so the check is in the binary. It fails where there is no GPU
//! to check, and never passes without having looked.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tch::{Device, Kind, Tensor};

use crate::backend::{self, Backend};
use crate::cancel::Cancel;
use crate::cli::GpuCheckCollectivesArgs;
use crate::collective::contract::CLAUSES;
use crate::collective::watchdog::Stuck;
use crate::config::{DeviceChoice, Gpus};
use crate::device;
use crate::launch::{Place, World};
use crate::stdout;
use crate::topology::{Division, Topology};
use crate::torch_ext::cuda::{self, Hold};

/// Within this time any of the checks' operations ends on any device.
const PLENTY: Duration = Duration::from_secs(120);

/// How long the rank that is to be missed is waited for: longer than GPUs take to connect.
fn missed(devices: &[Device]) -> Duration {
    Duration::from_secs(if devices[0].is_cuda() { 20 } else { 2 })
}

/// Checks the contract of the collectives, and what becomes of the ranks when one fails or hangs.
///
/// # Errors
/// The first promise that is broken, or why there is nothing to check.
pub fn run(args: &GpuCheckCollectivesArgs) -> Result<()> {
    let devices = devices(args)?;
    let backend = backend::choose(args.backend, &devices)?;
    stdout::line(format_args!("{} ranks on {devices:?}, {backend:?}", devices.len()))?;
    let world = |division, limit| world(division, &devices, backend, limit);
    for (name, clause) in CLAUSES {
        world(Division::Replicas, PLENTY)?
            .run(|place| clause(&*place.data, place.device))
            .with_context(|| format!("broken: {name}"))?;
        stdout::line(format_args!("ok  {name}"))?;
    }
    check_hanging(&devices, backend)?;
    if devices.len() == 1 {
        return Ok(()); // nobody to fail, or to come late
    }
    // In hybrid mode every rank has peers on both axes.
    world(Division::Hybrid, PLENTY)?.run(|place| both_axes(&place))?;
    stdout::line("ok  all of it in turns on both axes of the same ranks")?;
    let failing = world(Division::Hybrid, PLENTY)?;
    a_failing_rank_ends_the_others(&failing).context("when a rank fails")?;
    stdout::line("ok  a failing rank ends the others, and its error is the one reported")?;
    let missing = world(Division::Hybrid, missed(&devices))?;
    a_missing_rank_is_named(&missing).context("when a rank does not come")?;
    stdout::line("ok  a rank that does not come ends the run, and is named")?;
    Ok(())
}

/// Behind a GPU that hangs, threads that read each other's memory wait on the host; NCCL's operations wait
/// on the other GPUs, and their hosts go on.
fn check_hanging(devices: &[Device], backend: Backend) -> Result<()> {
    if backend != Backend::Nccl {
        return Ok(());
    }
    let hanging = world(Division::Replicas, devices, backend, missed(devices))?;
    a_hanging_gpu_is_noticed(&hanging).context("when a GPU hangs")?;
    stdout::line("ok  an operation that a GPU does not come to ends the run, and is named")?;
    Ok(())
}

/// One device per rank, going round those there are.
fn devices(args: &GpuCheckCollectivesArgs) -> Result<Vec<Device>> {
    let gpus = match args.device {
        DeviceChoice::Cpu => Gpus::Count(1),
        _ => Gpus::All,
    };
    let found = device::choose(args.device, &gpus)?;
    Ok(found.iter().copied().cycle().take(args.ranks).collect())
}

fn world(
    division: Division,
    devices: &[Device],
    backend: Backend,
    collective_timeout: Duration,
) -> Result<World> {
    Ok(World {
        topology: Topology::new(division, devices.len())?,
        devices: devices.to_vec(),
        threads: 1,
        backend,
        collective_timeout,
        cancel: Cancel::default(),
    })
}

/// Every promise on the data axis, and on the column axis while something is under way on the other, as
/// gradients are while activations travel.
fn both_axes(place: &Place) -> Result<()> {
    let (data, columns, device) = (&*place.data, &*place.columns, place.device);
    let size = data.size() as i64;
    let ones = Tensor::ones([size << 16], (Kind::Float, device));
    for (name, clause) in CLAUSES {
        clause(data, device).with_context(|| format!("broken on the data axis: {name}"))?;
        let mut sum = Tensor::zeros([1 << 16], (Kind::Float, device));
        data.begin_reduce_scatter(&ones, &mut sum)?;
        clause(columns, device).with_context(|| format!("broken on the column axis: {name}"))?;
        data.flush()?;
        let mean = sum.mean(Kind::Double).double_value(&[]);
        ensure!(mean == size as f64, "{name}, beside a sum of {size} ones: {mean}");
    }
    Ok(())
}

/// Adds up ones over all ranks and waits for the sum on the host.
fn sum_of_ones(place: &Place) -> Result<f64> {
    let mut x = Tensor::ones([1024], (Kind::Float, place.device));
    place.data.all_reduce(&mut x)?;
    let sum = x.mean(Kind::Double).double_value(&[]);
    place.data.flush()?;
    Ok(sum)
}

fn a_failing_rank_ends_the_others(world: &World) -> Result<()> {
    let result = world.run(|place| {
        sum_of_ones(&place)?;
        ensure!(place.rank + 1 != place.data.size(), "failing on purpose");
        sum_of_ones(&place)
    });
    let error = result.err().ok_or_else(|| anyhow!("the run went on without it"))?;
    let text = format!("{error:#}");
    ensure!(text.ends_with("failing on purpose"), "another error is reported: {text}");
    Ok(())
}

fn a_hanging_gpu_is_noticed(world: &World) -> Result<()> {
    let result = world.run(|place| -> Result<()> {
        place.at_step(3);
        sum_of_ones(&place)?;
        let hold = match place.device {
            Device::Cuda(gpu) if place.rank == 0 => Some(Hold::of(&*cuda::borrowed_stream(gpu)?)?),
            _ => None,
        };
        let mut x = Tensor::ones([1024], (Kind::Float, place.device));
        place.data.all_reduce(&mut x)?;
        // Returns when the run is given up.
        let _ = world.cancel.channel().recv();
        drop(hold);
        bail!("waited for something else")
    });
    expect_stuck(result, "all ranks have begun it")
}

fn a_missing_rank_is_named(world: &World) -> Result<()> {
    let result = world.run(|place| {
        place.at_step(3);
        sum_of_ones(&place)?;
        if place.rank == 0 {
            // Returns when the run is given up.
            let _ = world.cancel.channel().recv();
            bail!("waited for something else");
        }
        sum_of_ones(&place)
    });
    expect_stuck(result, "rank 0 has not begun it")
}

/// That a run was ended by the watchdog, which said `why`.
fn expect_stuck<T>(result: Result<T>, why: &str) -> Result<()> {
    let error = result.err().ok_or_else(|| anyhow!("the run went on without it"))?;
    let stuck = error.chain().find_map(|cause| cause.downcast_ref::<Stuck>());
    let Some(stuck) = stuck else { bail!("another error is reported: {error:#}") };
    let text = stuck.to_string();
    let words = ["all-reduce of 4096 bytes (step 3", "data axis", why];
    ensure!(words.iter().all(|words| text.contains(words)), "it says: {text}");
    Ok(())
}
