//! Sets that were decoded and scaled once, by `alexnet-mgpu pack`, and are read many times.
//!
//! A packed folder has shards of both splits and a [`Manifest`]. Shards of pixels ([`Format::U8`])
//! are mapped, and the loader cuts its windows from the map itself: no record is ever copied. Shards
//! of JPEG files are webdataset shards like others, except that the manifest says what must be
//! there. How shards are written is the business of [`crate::pack`].

pub(super) mod manifest;
mod map;
pub(super) mod records;
mod square;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

pub use manifest::{
    BadImage, CLASS_LIST, Format, MANIFEST, Manifest, Origin, Part, Settings, Shard, State,
};
pub use records::{Notes, RecordsContent};
pub use square::Squarer;

use super::class_names::Classes;
use super::error::DataError;
use super::files::sorted_names;
use super::finish::Frame;
use super::shards::Shards;
use super::source::{Content, Images, Source, Split};
use map::map;

/// A packed folder that is complete.
pub(super) struct PackedSet {
    root: PathBuf,
    manifest: Box<Manifest>,
}

impl PackedSet {
    /// The packed set in the folder `root`, if it is one.
    ///
    /// # Errors
    /// If packing has not finished, or the manifest is damaged or lost.
    pub(super) fn find(root: &Path) -> Result<Option<Self>, DataError> {
        match Manifest::read(root)? {
            Some(manifest) if manifest.state == State::Complete => {
                Ok(Some(Self { root: root.into(), manifest: manifest.into() }))
            }
            Some(_) => Err(DataError::malformed(
                root,
                "is not packed to its end; run the same `alexnet-mgpu pack` again to finish it",
            )),
            None => match records_without_manifest(root)? {
                Some(name) => Err(DataError::malformed(
                    root,
                    format!(
                        "holds packed images ({name}) but no {MANIFEST}, which says whether they \
                         are whole; copy it too, or pack again"
                    ),
                )),
                None => Ok(None),
            },
        }
    }

    /// For provenance.
    pub(super) fn kind(&self) -> &'static str {
        match self.manifest.settings.format {
            Format::U8 => "packed pixels",
            Format::Jpeg => "packed JPEG files",
        }
    }

    pub(super) fn open(&self, split: Split) -> Result<Images, DataError> {
        match self.manifest.settings.format {
            Format::U8 => Ok(Arc::new(Packed::open(&self.root, &self.manifest, split)?)),
            Format::Jpeg => self.open_jpeg(split),
        }
    }

    /// Shards that hold what the manifest says.
    fn open_jpeg(&self, split: Split) -> Result<Images, DataError> {
        let malformed = |problem: String| {
            let advice = "`alexnet-mgpu pack --verify` says what is damaged";
            DataError::malformed(&self.root, format!("{problem}; {advice}"))
        };
        let shards = Shards::in_folder(&self.root)?;
        let shards = shards.ok_or_else(|| malformed("holds no shards".into()))?;
        let images = shards.open(split, Some(&self.manifest.classes))?;
        let expected = self.manifest.part(split).num_images().map_err(malformed)?;
        if images.len() != expected {
            let found = images.len();
            return Err(malformed(format!("holds {found} images where {expected} must be")));
        }
        if images.classes() != self.manifest.classes {
            return Err(malformed(format!("{CLASS_LIST} has not the classes of {MANIFEST}")));
        }
        Ok(Arc::new(images))
    }
}

/// The name of a shard of pixels, if there is one.
fn records_without_manifest(root: &Path) -> Result<Option<String>, DataError> {
    let is_records = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_split = name.starts_with("train-") || name.starts_with("val-");
        Ok(is_split && name.contains("-of-") && name.ends_with(".safetensors"))
    };
    let names = sorted_names(root, is_records)?;
    Ok(names.first().map(|name| name.to_string_lossy().into_owned()))
}

/// One split of a set of pixels.
pub(super) struct Packed {
    shards: Vec<Records>,
    /// The index of each shard's first image.
    starts: Vec<usize>,
    /// Checked copies: a mapped file may change.
    labels: Vec<u32>,
    classes: Classes,
    size: u32,
    image_bytes: usize,
}

/// A mapped shard.
struct Records {
    path: PathBuf,
    map: Mmap,
    /// Where its images begin.
    images: usize,
}

impl Packed {
    /// Maps every shard of a split.
    pub(super) fn open(root: &Path, manifest: &Manifest, split: Split) -> Result<Self, DataError> {
        let Manifest { settings, classes, class_names, .. } = manifest;
        let (size, part) = (settings.size, manifest.part(split));
        let mut packed = Self {
            shards: Vec::new(),
            starts: Vec::new(),
            labels: Vec::new(),
            classes: Classes { ids: classes.clone(), names: class_names.clone() },
            size,
            image_bytes: settings.image_bytes(),
        };
        for (name, shard) in &part.shards {
            let path = root.join(name);
            packed.add(&path, shard)?;
        }
        Ok(packed)
    }

    /// Maps one more shard.
    fn add(&mut self, path: &Path, shard: &Shard) -> Result<(), DataError> {
        let malformed = |problem| DataError::malformed(path, problem);
        let file = File::open(path).map_err(DataError::io("open", path))?;
        let len = file.metadata().map_err(DataError::io("read", path))?.len();
        if len != shard.num_bytes {
            return Err(malformed(format!(
                "has {len} bytes where {} must be, so it is cut off or damaged; copy it again, or \
                 run `alexnet-mgpu pack` again",
                shard.num_bytes
            )));
        }
        let map = map(&file).map_err(DataError::io("map", path))?;
        let content = RecordsContent { num_images: shard.num_images, size: self.size };
        let places = content.find(&map).map_err(malformed)?;
        self.starts.push(self.labels.len());
        let labels = map[places.labels..].as_chunks::<4>().0.iter().take(shard.num_images);
        for (record, label) in labels.enumerate() {
            let label = i32::from_le_bytes(*label);
            match u32::try_from(label) {
                Ok(label) if (label as usize) < self.classes.ids.len() => self.labels.push(label),
                _ => {
                    return Err(malformed(format!(
                        "record {record} has label {label}, but there are classes 0 to {}; copy it \
                         again",
                        self.classes.ids.len() - 1
                    )));
                }
            }
        }
        self.shards.push(Records { path: path.into(), map, images: places.images });
        Ok(())
    }

    /// The shard of an image, and its place among the shard's images.
    fn record(&self, index: usize) -> (&Records, usize) {
        let shard = self.starts.partition_point(|&start| start <= index) - 1;
        (&self.shards[shard], index - self.starts[shard])
    }
}

impl Source for Packed {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes.ids
    }

    fn class_names(&self) -> &[String] {
        &self.classes.names
    }

    fn label(&self, index: usize) -> usize {
        self.labels[index] as usize
    }

    fn name(&self, index: usize) -> String {
        let (shard, record) = self.record(index);
        format!("{} record {record}", shard.path.display())
    }

    fn read(&self, index: usize, bytes: &mut Vec<u8>) -> io::Result<Content> {
        let frame = self.mapped(index);
        bytes.clear();
        bytes.extend_from_slice(frame.pixels);
        Ok(Content::Rgb { width: frame.width, height: frame.height })
    }

    fn frame(&self, index: usize) -> Option<Frame<'_>> {
        Some(self.mapped(index))
    }
}

impl Packed {
    fn mapped(&self, index: usize) -> Frame<'_> {
        let (shard, record) = self.record(index);
        let start = shard.images + record * self.image_bytes;
        let pixels = &shard.map[start..start + self.image_bytes];
        Frame { width: self.size, height: self.size, pixels }
    }
}
