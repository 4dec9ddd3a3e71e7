//! The folder a pack is written to, and its manifest as packing goes on.
//!
//! One process at a time may write it. Everything unfinished has a hidden name of its own kind
//! ([`crate::replace`]), so that whatever else lies in the folder is somebody's and is left alone.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use super::{SPLITS, origin, refuse, unwritable};
use crate::data::Split;
use crate::data::packed::{CLASS_LIST, Format, MANIFEST, Manifest, Settings, Shard, State};
use crate::folder_lock::FolderLock;
use crate::replace::{UNFINISHED, replace};

/// A folder that this process packs into.
pub(super) struct Destination {
    dir: PathBuf,
    /// What is in it; the file says the same.
    pub(super) manifest: Manifest,
    /// Held while this lives.
    _lock: FolderLock,
}

impl Destination {
    /// Takes a free folder, or one that holds a pack of the same source and settings.
    pub(super) fn claim(dir: &Path, wanted: Manifest) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| unwritable(dir))?;
        let lock = FolderLock::take(dir, "packing into", "wait for its end")?;
        lock.warn_without_effect(dir, "packing into");
        let names = names(dir)?;
        let found = Manifest::read(dir)?;
        let manifest = match found {
            Some(mut found) => {
                if let Some(difference) = difference(&found, &wanted) {
                    let problem = format!(
                        "holds a pack {difference}; choose another folder, or remove this one"
                    );
                    return Err(refuse(dir, &problem));
                }
                for split in SPLITS {
                    let samples = wanted.part(split).samples.clone();
                    found.part_mut(split).samples = samples;
                }
                found
            }
            None => {
                if let Some(name) = names.iter().find(|name| !name.starts_with(UNFINISHED)) {
                    let problem = format!("holds something else ({name}); choose an empty folder");
                    return Err(refuse(dir, &problem));
                }
                wanted
            }
        };
        for name in names.iter().filter(|name| name.starts_with(UNFINISHED)) {
            fs::remove_file(dir.join(name)).with_context(|| unwritable(&dir.join(name)))?;
        }
        let destination = Self { dir: dir.into(), manifest, _lock: lock };
        if destination.manifest.state == State::Unfinished {
            destination.save()?;
        }
        Ok(destination)
    }

    /// The folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The numbers of the shards that are not listed.
    pub(super) fn missing(&self, split: Split) -> Vec<usize> {
        let Manifest { settings, .. } = &self.manifest;
        let part = self.manifest.part(split);
        let is_missing =
            |&index: &usize| !part.shards.contains_key(&part.shard_name(split, settings, index));
        (0..part.num_shards(settings)).filter(is_missing).collect()
    }

    /// Lists a finished shard.
    pub(super) fn record(&mut self, split: Split, (name, shard): (String, Shard)) -> Result<()> {
        self.manifest.part_mut(split).shards.insert(name, shard);
        self.save()
    }

    /// Takes shards off the list, to be made again.
    pub(super) fn forget(&mut self, split: Split, names: &[String]) -> Result<()> {
        self.manifest.state = State::Unfinished;
        let part = self.manifest.part_mut(split);
        part.statistics = None;
        names.iter().for_each(|name| drop(part.shards.remove(name)));
        self.save()
    }

    /// Says that nothing is missing, and what the colours of both splits are.
    pub(super) fn complete(&mut self) -> Result<()> {
        for split in SPLITS {
            let part = self.manifest.part_mut(split);
            let moments = part.moments().map_err(|problem| anyhow!(problem))?;
            part.statistics = moments.statistics();
        }
        self.manifest.state = State::Complete;
        self.save()
    }

    /// Writes the file that tells readers of JPEG shards what labels mean, unless it is there.
    pub(super) fn write_class_list(&self) -> Result<()> {
        let list = class_list(&self.manifest)?;
        let is_there = fs::read(self.dir.join(CLASS_LIST)).is_ok_and(|f| f == list.as_bytes());
        match self.manifest.settings.format {
            Format::Jpeg if !is_there => self.replace(CLASS_LIST, list.as_bytes()),
            Format::Jpeg | Format::U8 => Ok(()),
        }
    }

    fn save(&self) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(&self.manifest).context("a manifest is JSON")?;
        text.push(b'\n');
        self.replace(MANIFEST, &text)
    }

    /// Writes a small file, whole or not at all.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        replace(&path, |file| file.write_all(bytes)).with_context(|| unwritable(&path))
    }
}

/// The content of [`CLASS_LIST`]: label to identifier and name.
pub(super) fn class_list(manifest: &Manifest) -> Result<String> {
    let classes = manifest.classes.iter().zip(&manifest.class_names);
    let by_label: BTreeMap<usize, _> = classes.enumerate().collect();
    serde_json::to_string_pretty(&by_label).context("a list of classes is JSON")
}

/// Every name in the folder.
pub(super) fn names(dir: &Path) -> Result<Vec<String>> {
    let list = || -> io::Result<Vec<String>> {
        let name =
            |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        fs::read_dir(dir)?.map(name).collect()
    };
    let mut names = list().with_context(|| format!("cannot list {}", dir.display()))?;
    names.sort_unstable();
    Ok(names)
}

/// How what was found differs from what is wanted, if it does.
fn difference(found: &Manifest, wanted: &Manifest) -> Option<String> {
    let sizes = |manifest: &Manifest| SPLITS.map(|split| manifest.part(split).num_source_images);
    if found.settings != wanted.settings {
        Some(format!("made with {}", flags(&found.settings)))
    } else if found.source.kind != wanted.source.kind {
        Some(format!("made from another source ({})", found.source.kind))
    } else if found.source != wanted.source || sizes(found) != sizes(wanted) {
        Some("made from other images, or from these before some came or went".into())
    } else if let Some((split, index)) = exchanged(found, wanted) {
        Some(format!(
            "made from other images of these names ({split} image {index} is not the one packed)"
        ))
    } else if (&found.program, &found.filter) != (&wanted.program, &wanted.filter) {
        Some(format!("made by version {} of the program", found.program))
    } else {
        None
    }
}

/// An image of the source that is not the one packed.
fn exchanged(found: &Manifest, wanted: &Manifest) -> Option<(&'static str, usize)> {
    [(Split::Train, "training"), (Split::Test, "test")].into_iter().find_map(|(split, name)| {
        let index = origin::exchanged(found.part(split), wanted.part(split))?;
        Some((name, index))
    })
}

/// The settings as they are written on the command line.
fn flags(settings: &Settings) -> String {
    let Settings { format, size, quality, shard_images } = settings;
    let quality = quality.map(|quality| format!(" --quality {quality}")).unwrap_or_default();
    format!("--format {format} --size {size}{quality} --shard-images {shard_images}")
}
