//! From what a configuration says about colours to numbers: its own, ImageNet's, or fitted ones.
//!
//! A run records the numbers it found ([`resolved`]), so that its model needs neither the data nor
//! this program's constants; a mean image is too large for that and goes into the checkpoint
//! ([`Colours::stats`]). How statistics are fitted is not known here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::checkpoint;
use crate::config::{Config, DataConfig, Mean, Resume, StatsFrom};
use crate::data::{self, Augment, Components, DataError, Lighting, Normalisation, Stats};
use crate::image_folder;
use crate::shell;

/// The mean of ImageNet's training images, in the metadata of cuda-convnet2.
const IMAGENET_MEAN: [f64; 3] = [127.30, 119.72, 104.91];
/// torchvision's mean and deviation of ImageNet, 0.485 0.456 0.406 and 0.229 0.224 0.225 of 255.
const TORCHVISION: ([f64; 3], [f64; 3]) = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]);

/// What images are prepared with.
#[derive(Clone, Debug)]
pub struct Colours {
    /// What is subtracted, and what divides.
    pub normalisation: Normalisation,
    /// Colour noise, for recipes that have it.
    pub lighting: Lighting,
    /// The statistics that the mean image is of, if one is subtracted.
    pub stats: Option<Arc<Stats>>,
}

impl Colours {
    /// What `config` means, its files read.
    ///
    /// # Errors
    /// If statistics are asked for and are not there, or do not fit the configuration.
    pub fn find(config: &Config) -> Result<Self> {
        let Numbers { mean, std, components, stats } = Numbers::find(config)?;
        let stats = stats.filter(|_| config.data.mean == Mean::IMAGE).map(Arc::new);
        let mean_image = match &stats {
            Some(stats) => Some(stats.mean_image.clone().context(
                "the statistics have no mean image, because they \
                    are of images of different sizes; fit them with --resize",
            )?),
            None => None,
        };
        if let Some(image) = &mean_image {
            let (resize, side) = (config.data.resize, image.width());
            ensure!(
                resize == 0 || (side, image.height()) == (resize as u32, resize as u32),
                "the mean image is {side}x{} and data.resize is {resize}; fit the statistics again \
                 with `alexnet-mgpu stats DATA --resize {resize}`",
                image.height()
            );
        }
        let [mean, std] = [mean, std].map(|numbers| numbers.map(|x| x as f32));
        let scale = config.data.lighting_scale;
        let lighting = components.map_or(scale.into(), |c| Lighting::new(scale, &c));
        Ok(Self { normalisation: Normalisation { mean, std, mean_image }, lighting, stats })
    }
}

/// `config` with numbers in the place of `auto`. ImageNet's components stay `auto`: each lighting
/// scale has published ones of its own.
///
/// # Errors
/// As [`Colours::find`].
pub fn resolved(config: &Config) -> Result<Config> {
    let Numbers { mean, std, components, .. } = Numbers::find(config)?;
    let mut config = config.clone();
    let data = &mut config.data;
    if data.mean != Mean::IMAGE {
        data.mean = Mean::Colour(mean);
    }
    data.std = std.into();
    if let Some(Components { deviations, directions }) = components {
        let component = |k: usize| {
            let [red, green, blue] = directions[k];
            [deviations[k], red, green, blue]
        };
        data.components = [0, 1, 2].map(component).into();
    }
    Ok(config)
}

/// The numbers of a configuration.
struct Numbers {
    mean: [f64; 3],
    std: [f64; 3],
    /// `None`: ImageNet's.
    components: Option<Components>,
    /// Where they were read from, if a file had to be.
    stats: Option<Stats>,
}

impl Numbers {
    fn find(config: &Config) -> Result<Self> {
        let data = &config.data;
        let given_mean = match data.mean {
            Mean::Colour(colour) => Some(colour),
            Mean::Named(_) => None,
        };
        let given_std = data.std.numbers().copied();
        let given_components = data.components.numbers().map(|components| Components {
            deviations: components.map(|[deviation, ..]| deviation),
            directions: components.map(|[_, red, green, blue]| [red, green, blue]),
        });
        let torchvision = data.augment == Augment::Torchvision;
        let complete = given_mean.is_some()
            && (given_std.is_some() || !torchvision)
            && (given_components.is_some() || data.augment != Augment::Paper);
        let stats = match complete {
            true => None,
            false => read_stats(config)?,
        };
        let (mean, std, components) = match (&stats, torchvision) {
            (Some(Stats { colours, .. }), _) => {
                (colours.mean, colours.std, Some(Components::from(colours)))
            }
            (None, true) => (TORCHVISION.0, TORCHVISION.1, None),
            (None, false) => (IMAGENET_MEAN, [1.0; 3], None),
        };
        // §2 subtracts the mean and leaves it at that.
        let std = if torchvision { std } else { [1.0; 3] };
        Ok(Self {
            mean: given_mean.unwrap_or(mean),
            std: given_std.unwrap_or(std),
            components: given_components.or(components),
            stats,
        })
    }
}

/// The statistics a configuration names; `None` for ImageNet's constants.
fn read_stats(config: &Config) -> Result<Option<Stats>> {
    if config.data.stats == StatsFrom::Imagenet {
        return Ok(None);
    }
    // A run goes on with the mean image it began with, and so does its model.
    let path = match in_checkpoint(config) {
        Some(path) => path,
        None => path(&config.data),
    };
    if !path.is_file() {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        let missing = DataError::Io { action: "read", path, source: Arc::new(source) };
        let images = image_folder::folder(&config.data);
        let output = match &config.data.stats {
            StatsFrom::File(path) => format!(" --output {}", shell::word(path)),
            StatsFrom::Imagenet | StatsFrom::Fitted => String::new(),
        };
        return Err(missing).with_context(|| {
            format!(
                "data.stats is {:?} and there are no statistics; make them with `alexnet-mgpu stats \
                 {} --resize {}{output}`, or set data.stats to \"imagenet\"",
                String::from(config.data.stats.clone()),
                shell::word(&images),
                config.data.resize
            )
        });
    }
    Ok(Some(Stats::read(&path)?))
}

/// Where fitted statistics lie.
fn path(config: &DataConfig) -> PathBuf {
    match &config.stats {
        StatsFrom::File(path) => path.clone(),
        _ => data::home(&image_folder::folder(config)).join(Stats::FILE),
    }
}

/// The statistics in the checkpoint that the run goes on from.
fn in_checkpoint(config: &Config) -> Option<PathBuf> {
    let run_dir = config.run_dir();
    let from: &Path = match &config.run.resume {
        Resume::Off => return None,
        Resume::Auto => &run_dir,
        Resume::From(path) => path,
    };
    let path = checkpoint::resolve(from)?.join(Stats::FILE);
    path.is_file().then_some(path)
}

#[cfg(test)]
mod tests;
