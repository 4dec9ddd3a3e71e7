//! Where the images of a run lie: what the configuration names, or a generated set, made when it is first
//! asked for.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::config::DataConfig;
use crate::data::{self, GeneratedSpec};

/// `data.path` for images made by the program itself.
pub const GENERATED: &str = "generated";

/// The folder of the images, which a generated set may not have yet.
#[must_use]
pub fn folder(config: &DataConfig) -> PathBuf {
    if config.path != GENERATED {
        return PathBuf::from(&config.path);
    }
    let made = &config.generated;
    let name = format!("generated-{}px-{}-{}-{}", made.size, made.train, made.test, made.seed);
    Path::new("data").join(name)
}

/// The folder of the images; makes the generated set if it is asked for and not there yet.
///
/// # Errors
/// If the folder cannot be written.
pub fn locate(config: &DataConfig) -> Result<PathBuf> {
    let dir = folder(config);
    if config.path != GENERATED {
        return Ok(dir);
    }
    let made = &config.generated;
    let spec = GeneratedSpec {
        seed: made.seed,
        size: made.size as u32,
        num_train: made.train,
        num_test: made.test,
    };
    if !dir.exists() {
        tracing::info!("making {} images in {}", made.train + made.test, dir.display());
    }
    data::generate(&dir, &spec).with_context(|| {
        format!(
            "cannot make images in {}; start the program in a folder with free space that can be written, or \
             name images with --data",
            dir.display()
        )
    })?;
    Ok(dir)
}
