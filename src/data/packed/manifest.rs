//! `manifest.json`: what a packed folder holds, from what and how it was made.
//!
//! While packing goes on the manifest lists the shards that are finished; it is replaced by a rename
//! after each. Readers take a complete one only. It comes from outside, so everything a reader uses
//! is checked first. Files are neither read nor written here, but for the manifest itself.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::super::archive::printable;
use super::super::class_names::{MAX_CLASSES, read_text};
use super::super::error::DataError;
use super::super::geometry::Geometry;
use super::super::moments::{ColourStatistics, Moments};
use super::super::source::Split;
use super::records::RecordsContent;

/// The name of the manifest in its folder.
pub const MANIFEST: &str = "manifest.json";
/// The file beside JPEG shards that says what labels mean.
pub const CLASS_LIST: &str = "imagenet_class_index.json";
/// What tells this manifest from others of its name.
const MADE_BY: &str = "alexnet-mgpu pack";
/// The version of the layout that this program writes and reads.
const VERSION: u32 = 1;
/// A million images of which one in a hundred is bad need 4 MB.
const MAX_BYTES: u64 = 256 << 20;
/// How images are made square; a change of the pixels needs another text.
const FILTER: &str = "shorter side to `size` by an antialiased triangle filter, central square; as it is if it has this size";
const BAD_IMAGES: &str = "left out";

/// What is stored of each image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Pixels in safetensors files, read where they lie in memory.
    #[default]
    U8,
    /// JPEG files in webdataset tars, about a tenth of the bytes.
    Jpeg,
}

impl Format {
    fn extension(self) -> &'static str {
        match self {
            Self::U8 => "safetensors",
            Self::Jpeg => "tar",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::Jpeg => "jpeg",
        })
    }
}

/// What the user chose, as far as it changes a byte of the shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// What is stored.
    pub format: Format,
    /// The side of the square images, in pixels.
    pub size: u32,
    /// The quality of JPEG files, 1 to 100.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quality: Option<u8>,
    /// Source images to a shard.
    pub shard_images: usize,
}

impl Settings {
    /// The bytes of one image's pixels.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        RecordsContent { num_images: 1, size: self.size }.image_bytes()
    }
}

/// How far packing has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Some shards are missing.
    Unfinished,
    /// All shards are there.
    Complete,
}

/// The image set that was packed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What kind of set it was: "image folder", "webdataset shards", …
    pub kind: String,
    /// BLAKE3 over classes, labels and some names, to know the set again. What is in a few of its images is in
    /// [`Part::samples`].
    pub fingerprint: String,
}

/// An image that could not be read, and is not in the pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadImage {
    /// Its index in the split of the source.
    pub index: usize,
    /// Its name there.
    pub name: String,
    /// Why it cannot be read.
    pub reason: String,
}

/// A finished shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Images in it.
    pub num_images: usize,
    /// The length of the file.
    pub num_bytes: u64,
    /// The BLAKE3 hash of the file, as `b3sum` prints it.
    pub blake3: String,
    /// Of the square images, before JPEG compression.
    pub moments: Moments,
    /// The source images of its range that are not in it.
    pub bad: Vec<BadImage>,
}

/// One split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Images in the source.
    pub num_source_images: usize,
    /// BLAKE3 over the bytes of a few images, evenly spaced, by their index in the source, to tell it from a set
    /// of the same names; one that cannot be read counts as empty. They are no part of the fingerprint because
    /// images that are bad may be mended.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub samples: BTreeMap<usize, String>,
    /// Finished shards by file name, which is their order.
    pub shards: BTreeMap<String, Shard>,
    /// Of all images of the split, once it is complete.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub statistics: Option<ColourStatistics>,
}

impl Part {
    /// Images in the shards.
    ///
    /// # Errors
    /// In words, if they are more than an order can hold.
    pub fn num_images(&self) -> Result<usize, String> {
        let add = |sum: usize, shard: &Shard| sum.checked_add(shard.num_images);
        let num_images = self.shards.values().try_fold(0, add);
        num_images
            .filter(|&num| u32::try_from(num).is_ok())
            .ok_or_else(|| "lists more than 2^32 images".into())
    }

    /// The number of shards once complete.
    #[must_use]
    pub fn num_shards(&self, settings: &Settings) -> usize {
        self.num_source_images.div_ceil(settings.shard_images)
    }

    /// The images that could not be read so far.
    #[must_use]
    pub fn bad_images(&self) -> Vec<BadImage> {
        self.shards.values().flat_map(|shard| shard.bad.clone()).collect()
    }

    /// The moments of all images so far.
    ///
    /// # Errors
    /// In words, if the sums overflow.
    pub fn moments(&self) -> Result<Moments, String> {
        let mut sum = Moments::default();
        for (name, shard) in &self.shards {
            sum.add(&shard.moments).map_err(|error| format!("{name}: {error}"))?;
        }
        Ok(sum)
    }

    fn check(&self, split: Split, settings: &Settings, state: State) -> Result<(), String> {
        let (expected, found) = (self.num_shards(settings), self.shards.len());
        let split_name = split_name(split);
        if found > expected || found < expected && state == State::Complete {
            return Err(format!("lists {found} {split_name} shards where {expected} must be"));
        }
        for (name, shard) in &self.shards {
            let Some(index) = self.shard_index(split, settings, name) else {
                let name = printable(name);
                return Err(format!("lists {name}, which is no shard of its {split_name} split"));
            };
            let range = self.range(settings, index);
            if let Some(bad) = shard.bad.iter().find(|bad| !range.contains(&bad.index)) {
                return Err(format!("lists image {} in {name}, which is not of it", bad.index));
            }
            if !shard.moments.are_of_pixels() {
                return Err(format!("lists sums for {name} that no pixels have"));
            }
            let num_range = range.len();
            if shard.num_images.checked_add(shard.bad.len()) != Some(num_range) {
                return Err(format!(
                    "lists {} images and {} bad ones of {name}, which are not the {num_range} of \
                     its range",
                    shard.num_images,
                    shard.bad.len(),
                ));
            }
        }
        self.moments()?;
        match self.num_images()? {
            0 if state == State::Complete => Err(format!("lists no {split_name} images")),
            _ => Ok(()),
        }
    }

    /// The number of the shard that is called `name`.
    fn shard_index(&self, split: Split, settings: &Settings, name: &str) -> Option<usize> {
        let (number, _) =
            name.strip_prefix(split_name(split))?.strip_prefix('-')?.split_once("-of-")?;
        let index = number.parse().ok().filter(|&index| index < self.num_shards(settings))?;
        (self.shard_name(split, settings, index) == name).then_some(index)
    }

    /// The file name of shard `index`.
    #[must_use]
    pub fn shard_name(&self, split: Split, settings: &Settings, index: usize) -> String {
        let (name, num, extension) =
            (split_name(split), self.num_shards(settings), settings.format.extension());
        format!("{name}-{index:05}-of-{num:05}.{extension}")
    }

    /// The images of the source that shard `index` is made from.
    #[must_use]
    pub fn range(&self, settings: &Settings, index: usize) -> Range<usize> {
        let start = index * settings.shard_images;
        start..self.num_source_images.min(start.saturating_add(settings.shard_images))
    }
}

fn split_name(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Test => "val",
    }
}

/// The contents of a packed folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    made_by: String,
    version: u32,
    /// Whether packing is done.
    pub state: State,
    /// The version of the program.
    pub program: String,
    /// What the user chose.
    pub settings: Settings,
    /// How images were made square.
    pub filter: String,
    /// What became of images that could not be read.
    pub bad_images: String,
    /// What was packed.
    pub source: Origin,
    /// What tells the classes apart, by label.
    pub classes: Vec<String>,
    /// What people call them, by label.
    pub class_names: Vec<String>,
    /// The training split.
    pub train: Part,
    /// The test split.
    pub val: Part,
}

impl Manifest {
    /// The manifest of a pack not yet begun.
    #[must_use]
    pub fn new(settings: Settings, source: Origin) -> Self {
        Self {
            made_by: MADE_BY.into(),
            version: VERSION,
            state: State::Unfinished,
            program: env!("CARGO_PKG_VERSION").into(),
            settings,
            filter: FILTER.into(),
            bad_images: BAD_IMAGES.into(),
            source,
            classes: Vec::new(),
            class_names: Vec::new(),
            train: Part::default(),
            val: Part::default(),
        }
    }

    /// The manifest in `dir`, finished or not; `None` if there is none, or it is another program's.
    ///
    /// # Errors
    /// [`DataError::Malformed`] if it is damaged or of another version.
    pub fn read(dir: &Path) -> Result<Option<Self>, DataError> {
        let path = dir.join(MANIFEST);
        let text = match read_text(&path, MAX_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DataError::io("read", &path)(error)),
        };
        if !text.contains(MADE_BY) {
            return Ok(None);
        }
        Self::parse(&text).map(Some).map_err(|problem| DataError::malformed(&path, problem))
    }

    /// As [`Manifest::read`], from text.
    pub(in crate::data) fn parse(text: &str) -> Result<Self, String> {
        let damaged = |error: serde_json::Error| {
            let reason = printable(&error.to_string());
            format!("is damaged ({reason}); copy it again, or pack into another folder")
        };
        let manifest: Self = serde_json::from_str(text).map_err(damaged)?;
        if manifest.made_by != MADE_BY || manifest.version != VERSION {
            return Err(format!(
                "is of version {}, and this program reads {VERSION}; use the program that wrote it \
                 ({}), or pack again",
                manifest.version, manifest.program
            ));
        }
        manifest.check().map_err(|problem| format!("{problem}; it is damaged: copy it again"))?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        let Self { settings, classes, class_names, .. } = self;
        if !(1..=Geometry::MAX_SIDE).contains(&settings.size) || settings.shard_images == 0 {
            return Err(format!(
                "has images of {} pixels, {} to a shard",
                settings.size, settings.shard_images
            ));
        }
        if !(2..=MAX_CLASSES).contains(&classes.len()) || classes.len() != class_names.len() {
            let (classes, names) = (classes.len(), class_names.len());
            return Err(format!("has {classes} classes and {names} names for them"));
        }
        [Split::Train, Split::Test]
            .into_iter()
            .try_for_each(|split| self.part(split).check(split, settings, self.state))
    }

    /// One split.
    #[must_use]
    pub fn part(&self, split: Split) -> &Part {
        match split {
            Split::Train => &self.train,
            Split::Test => &self.val,
        }
    }

    /// One split, to be changed.
    pub fn part_mut(&mut self, split: Split) -> &mut Part {
        match split {
            Split::Train => &mut self.train,
            Split::Test => &mut self.val,
        }
    }
}
