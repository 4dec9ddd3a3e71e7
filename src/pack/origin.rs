//! The manifest that a pack of a source would have: what it is made from, before anything is made.

use std::collections::BTreeMap;

use crate::data::packed::{Manifest, Origin, Part, Settings};
use crate::data::{Source, Split};

/// Names that enter the fingerprint: those of all images would take a tar's headers to be read again.
const NUM_NAMES: usize = 256;
/// Images of a split whose bytes are compared: enough to tell sets apart, and read at once.
const NUM_SAMPLES: usize = 16;

/// The manifest of a pack of these splits, with no shards yet.
pub(super) fn manifest(
    settings: Settings,
    kind: &str,
    train: &dyn Source,
    test: &dyn Source,
) -> Manifest {
    let mut hash = blake3::Hasher::new();
    [train, test].into_iter().for_each(|source| add(&mut hash, source));
    let fingerprint = hash.finalize().to_hex().to_string();
    let mut manifest = Manifest::new(settings, Origin { kind: kind.into(), fingerprint });
    manifest.classes = train.classes().to_vec();
    manifest.class_names = train.class_names().to_vec();
    for (split, source) in [(Split::Train, train), (Split::Test, test)] {
        let part = manifest.part_mut(split);
        part.num_source_images = source.len();
        part.samples = samples(source);
    }
    manifest
}

/// The hashes of a few images, by index.
fn samples(source: &dyn Source) -> BTreeMap<usize, String> {
    let mut bytes = Vec::new();
    let hash = |index| {
        if source.read(index, &mut bytes).is_err() {
            bytes.clear();
        }
        (index, blake3::hash(&bytes).to_hex().to_string())
    };
    evenly_spaced(NUM_SAMPLES, source.len()).map(hash).collect()
}

/// `num` indices of `len`, or all of them.
fn evenly_spaced(num: usize, len: usize) -> impl Iterator<Item = usize> {
    let num = num.min(len);
    (0..num).map(move |i| i * len / num)
}

/// An image of the source that is not the one packed. Images that could not be packed may have been mended since.
pub(super) fn exchanged(found: &Part, wanted: &Part) -> Option<usize> {
    let bad = found.bad_images();
    let is_other = |(index, hash): (&usize, &String)| {
        let is_bad = bad.iter().any(|image| image.index == *index);
        (!is_bad && wanted.samples.get(index) != Some(hash)).then_some(*index)
    };
    found.samples.iter().find_map(is_other)
}

/// Hashes what tells a source from another: its classes, labels, and the names of some images
/// without their folders, which may be spelled in several ways.
fn add(hash: &mut blake3::Hasher, source: &dyn Source) {
    let mut text = |text: &str| {
        hash.update(&(text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    };
    source.classes().iter().for_each(|class| text(class));
    for index in evenly_spaced(NUM_NAMES, source.len()) {
        let name = source.name(index);
        text(name.rsplit('/').next().unwrap_or(&name));
    }
    let labels = (0..source.len()).flat_map(|index| (source.label(index) as u32).to_le_bytes());
    hash.update(&labels.collect::<Vec<u8>>());
}
