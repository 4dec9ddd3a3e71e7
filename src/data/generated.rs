//! An image folder made from nothing, for trying the program where no image set is at hand.
//!
//! The set is a pure function of its spec. It is written beside its final place and renamed, so a
//! folder of that name is always complete; one made from the same spec is reused. It is opened like
//! any other image folder.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jpeg_encoder::{ColorType, Encoder};
use rayon::prelude::*;

use super::error::DataError;
use super::pattern::{CLASSES, draw};
use crate::folder_lock::{Effect, FolderLock};
use crate::random::{Key, Purpose};
use crate::replace;

/// High enough that fine gratings survive.
const JPEG_QUALITY: u8 = 92;
/// The file that records the spec a folder was made from.
const MARKER: &str = "generated.txt";

/// What the names of folders start with in which a set is being made.
const SCRATCH: &str = ".generating-";
/// A folder younger than this may not be locked yet.
const YOUNG: Duration = Duration::from_secs(60);

/// What to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneratedSpec {
    /// The seed of every picture.
    pub seed: u64,
    /// The side of the pictures, in pixels, one of [`GeneratedSpec::SIZES`].
    pub size: u32,
    /// Training images, over the classes in turn, at least [`GeneratedSpec::NUM_CLASSES`].
    pub num_train: usize,
    /// Test images, likewise.
    pub num_test: usize,
}

impl GeneratedSpec {
    /// The sides that pictures can have.
    pub const SIZES: RangeInclusive<u32> = 8..=1024;
    /// The classes that there are pictures of.
    pub const NUM_CLASSES: usize = CLASSES.len();

    fn check(&self) -> Result<(), DataError> {
        let reason = if !Self::SIZES.contains(&self.size) {
            let (least, most) = (Self::SIZES.start(), Self::SIZES.end());
            format!("size {} must be {least} to {most} pixels", self.size)
        } else if self.num_train < CLASSES.len() || self.num_test < CLASSES.len() {
            let Self { num_train, num_test, .. } = self;
            format!(
                "{num_train} training and {num_test} test images must each be at least {}",
                Self::NUM_CLASSES
            )
        } else {
            return Ok(());
        };
        Err(DataError::GeneratedSpec { reason })
    }

    fn describe(&self) -> String {
        let Self { seed, size, num_train, num_test } = self;
        format!("seed {seed}, size {size}, {num_train} training and {num_test} test images")
    }
}

/// Writes the image folder `dir`, or leaves it alone if it was made from the same spec.
///
/// # Errors
/// When `dir` holds something else, or cannot be written (read-only place, full disk); nothing is
/// left behind then.
pub fn generate(dir: &Path, spec: &GeneratedSpec) -> Result<(), DataError> {
    spec.check()?;
    if is_made_from(dir, spec)? {
        return Ok(());
    }
    let parent = replace::folder(dir);
    fs::create_dir_all(parent).map_err(DataError::io("create", parent))?;
    remove_abandoned(parent);
    let scratch = tempfile::Builder::new()
        .prefix(SCRATCH)
        .tempdir_in(parent)
        .map_err(DataError::io("create a folder in", parent))?;
    let _at_work = at_work(scratch.path());
    let new = scratch.path().join("set");
    write_split(&new.join("train"), spec, 0, spec.num_train)?;
    write_split(&new.join("test"), spec, 1, spec.num_test)?;
    write(&new.join(MARKER), spec.describe().as_bytes())?;
    match fs::rename(&new, dir) {
        Ok(()) => Ok(()),
        // Another process may have been faster.
        Err(_) if is_made_from(dir, spec)? => Ok(()),
        Err(error) => Err(DataError::io("create", dir)(error)),
    }
}

/// Removes what processes that were killed had begun to make, as far as possible. A folder is locked by its
/// process right after it is made, so the youngest are left alone.
fn remove_abandoned(parent: &Path) {
    let is_old = |path: &Path| {
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
        modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > YOUNG))
    };
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_scratch = entry.file_name().as_encoded_bytes().starts_with(SCRATCH.as_bytes());
        let is_abandoned = || {
            is_old(&entry.path())
                && at_work(&entry.path()).is_ok_and(|lock| lock.effect() == Effect::Exclusive)
        };
        if is_scratch && is_abandoned() {
            // What stays costs space only.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The mark of a process that is making a set in `scratch`.
fn at_work(scratch: &Path) -> anyhow::Result<FolderLock> {
    FolderLock::take(scratch, "making images in", "wait for its end")
}

/// Whether `dir` was made from `spec`; an empty or missing folder was not.
fn is_made_from(dir: &Path, spec: &GeneratedSpec) -> Result<bool, DataError> {
    let wanted = spec.describe();
    let occupied = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(DataError::io("list", dir)(error)),
    };
    match fs::read_to_string(dir.join(MARKER)) {
        Ok(found) if found == wanted => Ok(true),
        _ if occupied => Err(DataError::GeneratedTaken { path: dir.into(), wanted }),
        _ => Ok(false),
    }
}

/// Writes `num_images` pictures below `dir`, image `i` of class `i % 10`.
fn write_split(
    dir: &Path,
    spec: &GeneratedSpec,
    split: u64,
    num_images: usize,
) -> Result<(), DataError> {
    for class in CLASSES {
        let class_dir = dir.join(class);
        fs::create_dir_all(&class_dir).map_err(DataError::io("create", &class_dir))?;
    }
    let key = Key::new(spec.seed, Purpose::Generate).with(split);
    (0..num_images).into_par_iter().try_for_each(|i| {
        let class = i % CLASSES.len();
        let pixels = draw(class, spec.size, key.with(i as u64));
        write(&file_path(dir, class, i), &encode(&pixels, spec.size)?)
    })
}

fn file_path(dir: &Path, class: usize, index: usize) -> PathBuf {
    dir.join(CLASSES[class]).join(format!("{:06}.jpg", index / CLASSES.len()))
}

fn encode(pixels: &[u8], size: u32) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    let size = size as u16; // one of SIZES
    Encoder::new(&mut bytes, JPEG_QUALITY)
        .encode(pixels, size, size, ColorType::Rgb)
        .map_err(|error| DataError::GeneratedSpec { reason: error.to_string() })?;
    Ok(bytes)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    fs::write(path, bytes).map_err(DataError::io("write", path))
}
