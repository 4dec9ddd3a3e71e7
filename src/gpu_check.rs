//! `gpu-check`: what has to hold on GPUs, checked by the program itself.
//!
//! Machines with GPUs often have no Rust, so the checks are in the binary. They fail where there is no GPU
//! to check, and never pass without having looked.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tch::{Device, Kind, Tensor};

use crate::backend;
use crate::cancel::Cancel;
use crate::cli::GpuCheckCollectivesArgs;
use crate::collective::contract::CLAUSES;
use crate::collective::watchdog::Stuck;
use crate::config::{DeviceChoice, Gpus};
use crate::device;
use crate::launch::{Backend, Place, World};
use crate::topology::{Division, Topology};

/// Within this time any of the checks' operations ends on any device.
const PLENTY: Duration = Duration::from_secs(120);

/// How long the rank that is to be missed is waited for.
const MISSED: Duration = Duration::from_secs(2);

/// Checks the contract of the collectives, and what becomes of the ranks when one fails or hangs.
///
/// # Errors
/// The first promise that is broken, or why there is nothing to check.
#[allow(clippy::print_stdout, reason = "the result of the command")]
pub fn collectives(args: &GpuCheckCollectivesArgs) -> Result<()> {
    let devices = devices(args)?;
    let backend = backend::choose(args.backend, &devices)?;
    println!("{} ranks on {devices:?}, {backend:?}", devices.len());
    let world = |limit| world(&devices, backend, limit);
    for (name, clause) in CLAUSES {
        world(PLENTY)?
            .run(|place| clause(&*place.data, place.device))
            .with_context(|| format!("broken: {name}"))?;
        println!("ok  {name}");
    }
    // In one world, so that communicators of both axes live side by side.
    world(PLENTY)?.run(|place| {
        CLAUSES.iter().try_for_each(|(_, clause)| clause(&*place.data, place.device))
    })?;
    println!("ok  all of it on one set of communicators");
    a_failing_rank_ends_the_others(&world(PLENTY)?).context("when a rank fails")?;
    println!("ok  a failing rank ends the others, and its error is the one reported");
    a_missing_rank_is_named(&world(MISSED)?).context("when a rank does not come")?;
    println!("ok  a rank that does not come ends the run, and is named");
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

fn world(devices: &[Device], backend: Backend, collective_timeout: Duration) -> Result<World> {
    Ok(World {
        topology: Topology::new(Division::Replicas, devices.len())?,
        devices: devices.to_vec(),
        threads: 1,
        backend,
        collective_timeout,
        cancel: Cancel::default(),
    })
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
    let error = result.err().ok_or_else(|| anyhow!("the run went on without it"))?;
    let stuck = error.chain().find_map(|cause| cause.downcast_ref::<Stuck>());
    let Some(stuck) = stuck else { bail!("another error is reported: {error:#}") };
    let text = stuck.to_string();
    let words = ["all-reduce of 4096 bytes (step 3", "data axis", "rank 0 has not begun it"];
    ensure!(words.iter().all(|words| text.contains(words)), "it says: {text}");
    Ok(())
}
