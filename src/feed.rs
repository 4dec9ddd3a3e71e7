//! From the configuration to loaders: which images, prepared how, for whom.
//!
//! Where a run's configuration meets the data pipeline; no rank's work is known here.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tch::Device;

use crate::cancel::Cancel;
use crate::colours::Colours;
use crate::config::{Config, Finish, Precision};
use crate::cuda;
use crate::data::{
    self, DataError, Delivery, EvalLoader, Form, Geometry, Images, Loader, Output, Stats,
    TrainLoader, Views,
};
use crate::exit::{Coded, Exit};
use crate::image_folder;
use crate::topology::Topology;

/// The images of a run.
pub struct Feed {
    /// The training split.
    pub train: Images,
    /// The test split.
    pub test: Images,
    geometry: Geometry,
    colours: Colours,
    workers: usize,
    /// The devices that batches go to.
    devices: Vec<Device>,
}

impl Feed {
    /// Opens both splits, for `devices`. `input` is the side of the architecture's input.
    ///
    /// # Errors
    /// If the images are not there, or not as expected.
    pub fn open(config: &Config, input: usize, devices: &[Device]) -> Result<Self> {
        let colours = Colours::find(config)?;
        let path = image_folder::locate(&config.data)?;
        let data = &config.data;
        let geometry = Geometry {
            resize: data.resize as u32,
            pad: data.pad as u32,
            crop: data.crop_side(input) as u32,
        };
        let unpadded = Geometry { pad: 0, ..geometry };
        unpadded
            .check()
            .context("test images are not padded")
            .map_err(|e| Coded::new(Exit::Usage, e))?;
        let (train, test) = data::open_both(&path)?;
        Ok(Self {
            train,
            test,
            geometry,
            colours,
            workers: num_workers(data.workers),
            devices: devices.to_vec(),
        })
    }

    /// Whole batches in the training split; the last, incomplete one is left out.
    ///
    /// # Errors
    /// If there is none.
    pub fn steps_per_epoch(&self, batch: usize) -> Result<u64> {
        let len = self.train.len();
        ensure!(batch <= len, DataError::BatchTooLarge { batch, len });
        Ok((len / batch.max(1)) as u64)
    }

    /// The statistics that a model needs besides its configuration: those with the mean image.
    #[must_use]
    pub fn stats(&self) -> Option<&Arc<Stats>> {
        self.colours.stats.as_ref()
    }

    /// Starts loading training batches `steps`.
    ///
    /// # Errors
    /// If the set is smaller than a batch, or threads cannot be started.
    pub fn train(
        &self,
        config: &Config,
        topology: Topology,
        steps: std::ops::Range<u64>,
        cancel: &Cancel,
    ) -> Result<Loader> {
        let loader = TrainLoader {
            source: Arc::clone(&self.train),
            order: config.data.order,
            geometry: self.geometry,
            recipe: config.data.augment.recipe(self.colours.lighting),
            normalisation: self.colours.normalisation.clone(),
            seed: config.train.seed,
            batch: config.train.batch_size,
            start_step: steps.start,
            last_step: Some(steps.end),
            max_bad_fraction: config.data.max_bad_fraction,
        };
        Ok(loader.spawn(self.delivery(config, topology, config.train.batch_size, cancel))?)
    }

    /// Starts loading the test split, every image once. Test images are not padded.
    ///
    /// # Errors
    /// If threads cannot be started.
    pub fn test(
        &self,
        config: &Config,
        topology: Topology,
        views: Views,
        cancel: &Cancel,
    ) -> Result<Loader> {
        let batch = config.train.batch_size.max(topology.num_replicas);
        let loader = EvalLoader {
            source: Arc::clone(&self.test),
            geometry: match views {
                Views::Centre => Geometry { pad: 0, ..self.geometry },
                // Ten crops need room to move.
                Views::Ten => self.geometry,
            },
            normalisation: self.colours.normalisation.clone(),
            views,
            batch,
            max_bad_fraction: config.data.max_bad_fraction,
        };
        Ok(loader.spawn(self.delivery(config, topology, batch, cancel))?)
    }

    /// Bytes where the device makes the last pass, else finished pixels.
    fn form(&self, config: &Config) -> Form {
        let can_leave = || {
            self.colours.normalisation.mean_image.is_none()
                && self.devices.iter().all(|device| cuda::gpu_has_kernels(*device))
        };
        match config.data.finish {
            Finish::Device => Form::Unfinished,
            Finish::Auto if can_leave() => Form::Unfinished,
            Finish::Auto | Finish::Loader => Form::Finished(output(config.train.precision)),
        }
    }

    fn delivery(
        &self,
        config: &Config,
        topology: Topology,
        batch: usize,
        cancel: &Cancel,
    ) -> Delivery {
        Delivery {
            shares: topology.shares(batch),
            consumers_per_share: topology.num_columns,
            workers: self.workers,
            depth: config.data.depth,
            form: self.form(config),
            pinning: self.devices.first().and_then(|device| cuda::pinning(*device)),
            cancel: cancel.clone(),
        }
    }
}

/// The smallest type that loses nothing: a rank that computes in bf16 would round to it itself.
fn output(precision: Precision) -> Output {
    match precision {
        Precision::Bf16 => Output::Bf16,
        Precision::Fp32 | Precision::Tf32 | Precision::Fp64 => Output::F32,
    }
}

/// Decoding threads: as many as asked for, or one per core for 0.
#[must_use]
pub fn num_workers(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        asked => asked,
    }
}
