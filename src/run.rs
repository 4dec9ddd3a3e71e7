//! What every command needs to put a network on its devices: the world, the architecture, the workers.
//!
//! Knows the configuration, and nothing of epochs, checkpoints or the command line.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tch::{Kind, Tensor};

use crate::backend;
use crate::cancel::Cancel;
use crate::canonical::{self, Tensors};
use crate::collective::{Narrowed, Wire};
use crate::config::{
    Algorithms as AlgorithmsChoice, Config, Input, Mode, Optimizer as OptimizerChoice, Precision,
    TrainConfig, Wire as WireChoice,
};
use crate::data::{BatchReceiver, Loader, Stages};
use crate::device;
use crate::exit::{Coded, Exit};
use crate::feed::Feed;
use crate::intake::Intake;
use crate::launch::{Place, World};
use crate::net::arch::{Architecture, InputForm};
use crate::net::build::{Cut, Plan, Site};
use crate::optim::{Optimizer, Rule};
use crate::params::{ParamSpec, Sharing};
use crate::stopwatch::Stopwatch;
use crate::topology::{Division, Topology};
use crate::torch_ext::{self, Algorithms, Products};
use crate::train::{Reporting, Reports, Worker};

/// The libtorch kind a precision computes in.
#[must_use]
pub fn kind(precision: Precision) -> Kind {
    match precision {
        Precision::Fp32 | Precision::Tf32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
        Precision::Fp64 => Kind::Double,
    }
}

/// How values travel.
fn wire(choice: WireChoice) -> Wire {
    match choice {
        WireChoice::Computed => Wire::AS_COMPUTED,
        WireChoice::Fp32 => Wire::at_most(Kind::Float),
        WireChoice::Bf16 => Wire::at_most(Kind::BFloat16),
    }
}

/// The world a configuration asks for.
///
/// # Errors
/// If there are no such devices, or they do not fit the mode.
pub fn world(config: &Config) -> Result<World> {
    let asked = &config.devices;
    let devices = device::choose(asked.device, &asked.gpus)?;
    let division = match asked.mode {
        Mode::Single | Mode::DataParallel => Division::Replicas,
        Mode::Split => Division::Columns,
        Mode::Hybrid => Division::Hybrid,
    };
    let topology =
        Topology::new(division, devices.len()).map_err(|e| Coded::new(Exit::Usage, e))?;
    let (batch, num_replicas) = (config.train.batch_size, topology.num_replicas);
    if batch < num_replicas {
        let error = anyhow!(
            "a batch of {batch} image(s) leaves some of the {num_replicas} replicas without any; \
             use --batch-size {num_replicas} or more, or fewer devices"
        );
        return Err(Coded::new(Exit::Usage, error).into());
    }
    torch_ext::set_products(match config.train.precision {
        Precision::Tf32 => Products::Tf32,
        _ => Products::Exact,
    });
    torch_ext::set_algorithms(match asked.algorithms {
        AlgorithmsChoice::Fastest => Algorithms::Fastest,
        AlgorithmsChoice::Deterministic => Algorithms::Deterministic,
        AlgorithmsChoice::Exact => Algorithms::Exact,
    });
    let threads = device::threads_per_device(asked.threads, devices.len());
    Ok(World {
        topology,
        threads,
        backend: backend::choose(asked.backend, &devices)?,
        collective_timeout: Duration::from_secs(asked.collective_timeout_s as u64),
        devices,
        cancel: Cancel::default(),
    })
}

/// The configured update rule.
#[must_use]
pub fn rule(train: &TrainConfig) -> Rule {
    match train.optimizer {
        OptimizerChoice::Momentum => Rule::Momentum(train.momentum),
        OptimizerChoice::Adam => Rule::Adam,
    }
}

/// Makes one rank's worker with the weights that `value` gives, such as [`drawn`].
///
/// # Errors
/// If the columns do not divide the network, a peer has failed, or there is no value.
pub fn worker(
    config: &Config,
    arch: &Architecture,
    world: &World,
    mut place: Place,
    value: impl FnMut(&ParamSpec) -> Result<Tensor>,
) -> Result<Worker> {
    let topology = world.topology;
    let cut = match topology.division {
        Division::Replicas | Division::Columns => Cut::Columns,
        Division::Hybrid => Cut::FullyConnected,
    };
    let (part, num_parts) = (place.columns.rank() as i64, place.columns.size() as i64);
    let plan = Plan::new(arch, Site { part, num_parts, cut })?;
    let wire = wire(config.devices.wire);
    if wire.narrows(kind(config.train.precision)) {
        place.columns = Box::new(Narrowed::new(place.columns, wire));
    }
    let sharing = Sharing {
        rank: place.replica,
        size: topology.num_replicas,
        bucket_bytes: config.devices.bucket_bytes,
    };
    let mut arena = plan.arena(kind(config.train.precision), place.device, sharing);
    arena.share_weights(&*place.data)?;
    // Before the optimizer's memory is there: values that are drawn pass through fp64.
    arena.load(value)?;
    place.data.flush()?;
    let net = plan.build(arena);
    let train = &config.train;
    let optimizer = Optimizer::new(rule(train), train.weight_decay, train.bias_lr, &net.arena);
    let shares = match cut {
        Cut::FullyConnected if num_parts > 1 => topology.shares(train.batch_size),
        _ => Vec::new(),
    };
    let side = config.data.crop_side(arch.input as usize);
    Ok(Worker {
        stopwatch: Stopwatch::on(place.device)?,
        intake: Intake::to(place.device, kind(config.train.precision), side)?,
        reports: Reports::new(Reporting::on(place.device)),
        place,
        net,
        optimizer,
        global_batch: train.batch_size,
        shares: shares.into_iter().map(|share| share.len()).collect(),
        wire,
        seed: train.seed,
    })
}

/// The initial values of a run's parameters, for [`worker`].
pub fn drawn(config: &Config) -> impl Fn(&ParamSpec) -> Result<Tensor> {
    let seed = config.train.seed;
    move |spec| Ok(spec.initial(seed))
}

/// A loader's receivers, for the ranks to take theirs from.
pub struct Handout {
    receivers: Mutex<Vec<Vec<Option<BatchReceiver>>>>,
    loader: Loader,
}

impl Handout {
    /// Takes over the receivers of `loader`.
    #[must_use]
    pub fn new(mut loader: Loader) -> Self {
        let receivers = std::mem::take(&mut loader.receivers)
            .into_iter()
            .map(|share| share.into_iter().map(Some).collect())
            .collect();
        Self { receivers: Mutex::new(receivers), loader }
    }

    /// The number of images that could not be read so far.
    #[must_use]
    pub fn num_bad(&self) -> usize {
        self.loader.bad().count()
    }

    /// Where the loader's time went so far.
    #[must_use]
    pub fn stages(&self) -> Stages {
        self.loader.stages()
    }

    /// The receiver of the rank at `place`, once.
    ///
    /// # Errors
    /// If it was taken before.
    pub fn take(&self, place: &Place) -> Result<BatchReceiver> {
        let mut receivers = self.receivers.lock().unwrap_or_else(PoisonError::into_inner);
        receivers[place.replica][place.column].take().context("a rank took its batches twice")
    }
}

/// Trains for `num_steps` from initial weights and returns the canonical weights: what `verify` and the
/// tests compare.
///
/// # Errors
/// As a run.
pub fn weights_after(config: &Config, num_steps: u64) -> Result<Tensors> {
    let world = world(config)?;
    let arch = architecture(config, config.net.classes)?;
    let feed = Feed::open(config, arch.input as usize, &world.devices)?;
    let loader = feed.train(config, world.topology, 0..num_steps, &world.cancel)?;
    let handout = Handout::new(loader);
    let parts = world.run(|place| {
        let batches = handout.take(&place)?;
        let mut worker = worker(config, &arch, &world, place, drawn(config))?;
        while let Some(batch) = batches.next()? {
            worker.step(&batch, batch.step, config.train.lr)?;
        }
        worker.settle()?;
        worker.net.arena.gather_weights(&*worker.place.data)
    })?;
    let mut tensors = Tensors::new();
    for (spec, part) in parts.into_iter().flatten() {
        canonical::merge(&mut tensors, spec.name.clone(), &spec, &part);
    }
    Ok(tensors)
}

/// The configured architecture for `classes` classes.
///
/// # Errors
/// If its name is unknown, or it cannot be fed as configured.
pub fn architecture(config: &Config, classes: usize) -> Result<Architecture> {
    let name = config.net.arch.to_string();
    let arch = Architecture::by_name(&name, classes as i64, config.net.dropout)
        .with_context(|| format!("there is no architecture {name}"))?;
    let form = match config.net.input {
        Input::Auto => None,
        Input::Side227 => Some(InputForm::Side227),
        Input::Side224Padded => Some(InputForm::Side224Padded),
        Input::Side224Filled => Some(InputForm::Side224Filled),
    };
    let arch = match form {
        None => arch,
        Some(form) => arch.with_input(form).ok_or_else(|| {
            usage(anyhow!(
                "{name} has no 11 x 11 filters to feed {}; set net.input to auto",
                config.net.input
            ))
        })?,
    };
    let (crop, input) = (config.data.crop_side(arch.input as usize), arch.input);
    if crop as i64 != input {
        let error = anyhow!(
            "data.crop is {crop}, and {name} takes images of {input} pixels; leave data.crop at 0, or \
             choose another network or net.input"
        );
        return Err(usage(error).into());
    }
    Ok(arch)
}

/// What is wrong with the configuration and shows only here.
fn usage(error: anyhow::Error) -> Coded {
    Coded::new(Exit::Usage, error)
}
