//! From the configuration to loaders: which images, prepared how, for whom.
//!
//! Where a run's configuration meets the data pipeline; no rank's work is known here.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use tch::Device;

use crate::cancel::Cancel;
use crate::colours::Colours;
use crate::config::{Config, DataConfig, Finish, Precision};
use crate::cuda;
use crate::data::{
    self, BadImages, Delivery, EvalLoader, Form, Geometry, Images, Loader, Output, Stats,
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
    /// The side of the network's input.
    input: usize,
    /// The test images that no evaluation so far could read.
    bad_test: Arc<BadImages>,
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
        let Geometry { resize, crop, .. } = test_geometry(data, input, Views::Centre);
        if (1..crop).contains(&resize) {
            let error = anyhow!(
                "data.resize is {resize}, and the network takes {crop} x {crop} pixels of a test image, which \
                 is not padded; raise data.resize to {crop} or more, or set it to 0"
            );
            return Err(Coded::new(Exit::Usage, error).into());
        }
        let (train, test) = data::open_both(&path)?;
        Ok(Self {
            bad_test: Arc::new(BadImages::new(test.len(), data.max_bad_fraction)),
            train,
            test,
            input,
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
        Ok(data::steps_per_epoch(self.train.len(), batch)?)
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
            geometry: geometry(&config.data, self.input),
            variation: config.data.augment.variation(self.colours.lighting),
            normalisation: self.colours.normalisation.clone(),
            seed: config.train.seed,
            batch: config.train.batch_size,
            start_step: steps.start,
            last_step: Some(steps.end),
            max_bad_fraction: config.data.max_bad_fraction,
        };
        Ok(loader.spawn(self.delivery(config, topology, config.train.batch_size, cancel))?)
    }

    /// Starts loading the test split, every image once.
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
        let batch = config.train.batch_size;
        let loader = EvalLoader {
            source: Arc::clone(&self.test),
            geometry: test_geometry(&config.data, self.input, views),
            normalisation: self.colours.normalisation.clone(),
            views,
            batch,
            bad: Arc::clone(&self.bad_test),
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

/// The sizes that a training image passes through on its way to an input of side `input`.
fn geometry(data: &DataConfig, input: usize) -> Geometry {
    Geometry {
        resize: data.resize as u32,
        pad: data.pad as u32,
        crop: data.crop_side(input) as u32,
    }
}

/// The sizes that a test image passes through. Its centre is cut from the image as it is; ten crops need room to
/// move and get the padding of training.
#[must_use]
pub fn test_geometry(data: &DataConfig, input: usize, views: Views) -> Geometry {
    let padded = geometry(data, input);
    match views {
        Views::Centre => Geometry { pad: 0, ..padded },
        Views::Ten => padded,
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
