//! What untrusted bytes may do to each reader: end in a value or an error, and nothing else.
//!
//! The entry points of the fuzz targets and of the mutation tests; not part of the program. Each
//! panics if a reader answers with something that does not fit its input.

use super::archive::walk;
use super::cifar::{CIFAR10_BINARY, CIFAR10_PYTHON, CIFAR100_BINARY, Cifar};
use super::cover::{Needed, Window};
use super::decode::{Decoder, Image};
use super::geometry::Geometry;
use super::packed::manifest::Manifest;
use super::packed::records::RecordsContent;
use super::pickle::Pickle;
use super::shards::index_shard;
use super::source::Source;
use super::stats::Stats;
use super::worker::Worker;
use super::{braces, class_names, matlab, validation};

/// Walks a tar.
pub fn tar(bytes: &[u8]) -> Result<(), String> {
    let file = bytes.to_vec();
    let mut end = 0;
    walk(&file, 0..file.len() as u64, |member| {
        assert!(member.bytes.start >= end + 512 && member.bytes.start <= member.bytes.end);
        assert!(!member.name.starts_with('/') && !member.name.split('/').any(|part| part == ".."));
        end = member.bytes.end;
        assert!(end <= file.len() as u64, "a member lies in its tar");
        Ok(())
    })
}

/// Indexes a webdataset shard.
pub fn shard(bytes: &[u8]) -> Result<(), String> {
    let file = bytes.to_vec();
    let images = index_shard(&file, file.len() as u64, 0)?;
    assert!(images.len() <= file.len() / 1024, "each image has two headers");
    Ok(())
}

/// Reads a pickle and asks it for everything.
pub fn pickle(bytes: &[u8]) -> Result<(), String> {
    let pickle = Pickle::read(bytes).map_err(|error| error.to_string())?;
    let labels = pickle.ints("labels");
    let names = pickle.strings("filenames");
    let data = pickle.byte_array("data");
    if let Ok(data) = &data {
        let (rows, columns) = data.shape();
        let mut all = Vec::new();
        data.append_to(&mut all);
        assert_eq!(all.len(), rows * columns);
        assert!(all.len() <= 2 * bytes.len());
    }
    labels.map(drop).and(names.map(drop)).and(data.map(drop))
}

/// Reads a binary file of CIFAR-10 with two images.
pub fn cifar(bytes: &[u8]) -> Result<(), String> {
    let mut images = Cifar::default();
    CIFAR10_BINARY.append(bytes, 2, &mut images)?;
    check(&images)
}

/// Reads a binary file of CIFAR-100 with two images.
pub fn cifar100(bytes: &[u8]) -> Result<(), String> {
    let mut images = Cifar::default();
    CIFAR100_BINARY.append(bytes, 2, &mut images)?;
    check(&images)
}

/// Reads a pickle of CIFAR-10.
pub fn pickle_of_cifar(bytes: &[u8]) -> Result<(), String> {
    let mut images = Cifar::default();
    CIFAR10_PYTHON.append(bytes, 2, &mut images)?;
    check(&images)
}

fn check(images: &Cifar) -> Result<(), String> {
    let mut pixels = Vec::new();
    for index in 0..images.len() {
        assert!(images.label(index) < 100);
        images.read(index, &mut pixels).map_err(|error| error.to_string())?;
        assert_eq!(pixels.len(), 3072);
    }
    Ok(())
}

/// Reads the table of the devkit.
pub fn matlab(bytes: &[u8]) -> Result<(), String> {
    let table = matlab::wnids(bytes)?;
    assert!(table.keys().all(|&id| id > 0) && table.values().all(|wnid| wnid.len() < 64));
    Ok(())
}

/// Reads a list of class names, in the form that its first character tells.
pub fn class_names(bytes: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(bytes);
    match text.starts_with('{') {
        true => class_names::from_json(&text).map(drop),
        false => class_names::from_lines(&text).map(drop),
    }
}

/// Reads the labels of validation images in each of their forms.
pub fn validation(bytes: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(bytes);
    let labels = validation::solution(&text, |wnid| wnid.len() as u32);
    assert!(labels.as_ref().map_or(0, Vec::len) <= 1_000_000, "as many as an image's number");
    let (ids, table) = (validation::ids(&text), validation::text_table(&text));
    labels.map(drop).or(ids.map(drop)).or(table.map(drop))
}

/// Expands a pattern of paths.
pub fn pattern(bytes: &[u8]) -> Result<(), String> {
    let pattern = String::from_utf8_lossy(bytes);
    let paths = braces::expand(&pattern)?;
    assert!(!paths.is_empty() && paths.iter().all(|path| path.len() <= pattern.len() + 32));
    Ok(())
}

/// Finds the tensors of a packed shard of two images of 4 x 4 pixels.
pub fn packed(bytes: &[u8]) -> Result<(), String> {
    let places = RecordsContent { num_images: 2, size: 4 }.find(bytes)?;
    let (labels, images) = (places.labels..places.labels + 8, places.images..places.images + 96);
    assert!(labels.end <= bytes.len() && images.end <= bytes.len());
    assert!(labels.end <= images.start || images.end <= labels.start, "they do not overlap");
    Ok(())
}

/// Reads the manifest of a packed folder.
pub fn manifest(bytes: &[u8]) -> Result<(), String> {
    let manifest = Manifest::parse(&String::from_utf8_lossy(bytes))?;
    assert!(manifest.classes.len() >= 2 && manifest.settings.size <= 4096);
    for part in [&manifest.train, &manifest.val] {
        assert!(part.shards.keys().all(|name| !name.contains('/')));
        let mut bad = part.shards.values().flat_map(|shard| &shard.bad);
        assert!(bad.all(|image| image.index < part.num_source_images));
    }
    Ok(())
}

/// Reads a file of statistics.
pub fn stats(bytes: &[u8]) -> Result<(), String> {
    let stats = Stats::of_bytes(bytes)?;
    if let Some(image) = &stats.mean_image {
        assert_eq!(image.values().len(), image.width() as usize * image.height() as usize * 3);
    }
    let mut levels = stats.colours.mean.into_iter().chain(stats.colours.std);
    assert!(levels.all(|level| (0.0..=255.0).contains(&level)));
    Ok(())
}

/// Decodes an image, all of it and by regions.
pub fn image(bytes: &[u8]) -> Result<(), String> {
    let mut worker = Worker::default();
    for (resize, crop) in [(24, 16), (0, 8)] {
        let geometry = Geometry { resize, pad: 0, crop };
        let corner = Needed::Window(Window { left: 0, top: 0, mirrored: false });
        for needed in [Needed::Frame, corner] {
            // Another decoder's verdict counts where this one passes.
            let drawing = |width, height| geometry.drawing(width, height, |_| needed);
            let _ = worker.decode_region(bytes, drawing);
        }
    }
    let mut image = Image::default();
    Decoder::default().decode(bytes, &mut image).map_err(|error| error.to_string())?;
    assert_eq!(image.pixels().len(), image.width() as usize * image.height() as usize * 3);
    Ok(())
}
