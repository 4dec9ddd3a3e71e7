//! A trained network as a checkpoint holds it, with the recipe it was trained by.
//!
//! Images are prepared for it as they were in training. What it is asked, and what becomes of the answers, is the
//! business of [`inference`](crate::inference) and [`draw`](crate::draw).

use std::path::Path;

use anyhow::{Result, anyhow};
use tch::Tensor;

use crate::canonical::Shared;
use crate::checkpoint;
use crate::colours::Colours;
use crate::config::{Config, DevicesConfig, Override, Resume};
use crate::data::{Views, load_views};
use crate::exit::{Coded, Exit};
use crate::feed;
use crate::launch::{Place, World};
use crate::net::arch::Architecture;
use crate::params::ParamSpec;
use crate::run;
use crate::train::Worker;

/// A checkpoint with the recipe it was trained with.
pub struct Trained {
    /// The recipe, less the devices it was trained on.
    pub config: Config,
    /// The network.
    pub arch: Architecture,
    /// What tells the classes apart, in the order of the logits.
    pub classes: Vec<String>,
    /// What people call them, where that is known.
    pub class_names: Vec<String>,
    weights: Shared,
}

impl Trained {
    /// Reads a checkpoint, or the latest one of a run's folder.
    ///
    /// # Errors
    /// If there is none, or it is not whole.
    pub fn load(path: &Path) -> Result<Self> {
        let checkpoint::Model { dir, state, weights } = checkpoint::load_model(path)?;
        let name = path.display().to_string();
        let none: Vec<Override> = Vec::new();
        let mut config = Config::from_toml(&name, &state.config, none)?;
        // What it was trained on need not be here.
        config.devices = DevicesConfig::default();
        // What the model has besides numbers, such as a mean image, lies in the same checkpoint.
        config.run.resume = Resume::From(dir);
        Ok(Self {
            arch: run::architecture(&config, state.classes.len())?,
            config,
            classes: state.classes,
            class_names: state.class_names,
            weights: Shared::new(weights),
        })
    }

    /// A rank's part of a parameter.
    ///
    /// # Errors
    /// If the checkpoint lacks it.
    pub fn part(&self, spec: &ParamSpec) -> Result<Tensor> {
        self.weights.part(&spec.name, spec)
    }

    /// One rank's worker with the checkpoint's weights.
    ///
    /// # Errors
    /// If the columns do not divide the network, or a peer has failed.
    pub fn worker(&self, world: &World, place: Place) -> Result<Worker> {
        run::worker(&self.config, &self.arch, world, place, |spec| self.part(spec))
    }

    /// The views of an image file, `[views, H, W, 3]`, as 32-bit floats on the CPU.
    ///
    /// # Errors
    /// If the file cannot be read or is no image.
    pub fn views_of(&self, image: &Path, colours: &Colours, views: Views) -> Result<Tensor> {
        let geometry = feed::test_geometry(&self.config.data, self.arch.input as usize, views);
        let floats = load_views(image, &geometry, &colours.normalisation, views)?;
        let side = i64::from(geometry.crop);
        Ok(Tensor::from_slice(&floats).f_view([-1, side, side, 3])?)
    }
}

/// The end of a command that has named those of its images that it could not read.
///
/// # Errors
/// If there are any.
pub fn all_readable(num_bad: usize, num_images: usize) -> Result<()> {
    if num_bad == 0 {
        return Ok(());
    }
    let error = anyhow!("{num_bad} of {num_images} images could not be read");
    Err(Coded::new(Exit::Data, error).into())
}
