//! The manifest that a pack of a source would have: what it is made from, before anything is made.

use crate::data::packed::{Manifest, Origin, Settings};
use crate::data::{Source, Split};

/// Names that enter the fingerprint: those of all images would take a tar's headers to be read again.
const NUM_NAMES: usize = 256;

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
        manifest.part_mut(split).num_source_images = source.len();
    }
    manifest
}

/// Hashes what tells a source from another: its classes, labels, and the names of some images
/// without their folders, which may be spelled in several ways.
fn add(hash: &mut blake3::Hasher, source: &dyn Source) {
    let mut text = |text: &str| {
        hash.update(&(text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    };
    source.classes().iter().for_each(|class| text(class));
    for i in 0..NUM_NAMES.min(source.len()) {
        let name = source.name(i * source.len() / NUM_NAMES.min(source.len()));
        text(name.rsplit('/').next().unwrap_or(&name));
    }
    let labels = (0..source.len()).flat_map(|index| (source.label(index) as u32).to_le_bytes());
    hash.update(&labels.collect::<Vec<u8>>());
}
