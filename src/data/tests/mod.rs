//! Tests of the pipeline as a whole and what they share: small image sets in temporary folders.

mod augmenting;
mod cifar_files;
mod class_files;
mod coding;
mod decoding;
mod folders;
mod generating;
mod golden_pixels;
mod imagenet_tars;
mod loading;
mod mean_images;
mod mutations;
mod parts;
mod photographs;
mod pickles;
mod shard_files;
mod statistics;
mod tar_files;
mod tolerating;
mod unfinished;
mod unscaled;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{io, iter};

use jpeg_encoder::{ColorType, Encoder};
use tempfile::TempDir;

use super::*;

/// A picture in which every pixel differs from its neighbours.
fn picture(width: u32, height: u32, seed: u32) -> Vec<u8> {
    (0..width * height * 3).map(|i| (i.wrapping_mul(37) ^ seed.wrapping_mul(101)) as u8).collect()
}

/// A smooth picture as a JPEG file.
fn jpeg(width: u16, height: u16, seed: u8) -> Vec<u8> {
    let (w, h) = (u32::from(width), u32::from(height));
    let pixels: Vec<u8> = (0..h)
        .flat_map(|y| (0..w).map(move |x| (x, y)))
        .flat_map(|(x, y)| [(x * 3) as u8 ^ seed, (y * 5) as u8, (x + y) as u8])
        .collect();
    encode(&pixels, width, height, ColorType::Rgb)
}

fn encode(pixels: &[u8], width: u16, height: u16, color: ColorType) -> Vec<u8> {
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, 90).encode(pixels, width, height, color).expect("a valid picture");
    bytes
}

/// A picture as a PNG file.
fn png(picture: &image::DynamicImage) -> Vec<u8> {
    let mut bytes = io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).expect("a valid picture");
    bytes.into_inner()
}

/// Writes an image folder: for each (path below the root, bytes) one file.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let root = tempfile::tempdir().expect("a temporary folder");
    for (path, bytes) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a new folder");
        fs::write(path, bytes).expect("a new file");
    }
    root
}

/// A tar of plain files as GNU tar writes it.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, *bytes).expect("a valid member");
    }
    builder.into_inner().expect("it is in memory")
}

/// Every image of a split: its label's class, its label and its bytes.
fn images(source: &dyn Source) -> Vec<(String, usize, Vec<u8>)> {
    let image = |index| {
        let mut bytes = Vec::new();
        source.read(index, &mut bytes).expect("a readable image");
        let label = source.label(index);
        (source.classes()[label].clone(), label, bytes)
    };
    (0..source.len()).map(image).collect()
}

/// A set in memory whose image `i` is all of one colour, `[i, 2 i, 3 i]`, of class `i % 3`.
struct Plain {
    len: usize,
    side: u32,
    classes: Vec<String>,
    bad: fn(usize) -> bool,
    reads: AtomicUsize,
}

impl Plain {
    fn new(len: usize, side: u32) -> Self {
        let classes = ["a", "b", "c"].map(String::from).to_vec();
        Self { len, side, classes, bad: |_| false, reads: AtomicUsize::new(0) }
    }
}

impl Source for Plain {
    fn len(&self) -> usize {
        self.len
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> usize {
        index % 3
    }

    fn name(&self, index: usize) -> String {
        format!("image {index}")
    }

    fn read(&self, index: usize, bytes: &mut Vec<u8>) -> io::Result<Content> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if (self.bad)(index) {
            return Err(io::Error::other("bad sector"));
        }
        let pixel = [index as u8, (2 * index) as u8, (3 * index) as u8];
        bytes.clear();
        bytes.extend(iter::repeat_n(pixel, (self.side * self.side) as usize).flatten());
        Ok(Content::Rgb { width: self.side, height: self.side })
    }
}

/// A set in memory of distinct pictures of different sizes.
struct Pictures {
    len: usize,
    classes: Vec<String>,
}

impl Pictures {
    fn new(len: usize) -> Self {
        Self { len, classes: ["a", "b"].map(String::from).to_vec() }
    }
}

impl Source for Pictures {
    fn len(&self) -> usize {
        self.len
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> usize {
        index % 2
    }

    fn name(&self, index: usize) -> String {
        format!("picture {index}")
    }

    fn read(&self, index: usize, bytes: &mut Vec<u8>) -> io::Result<Content> {
        let (width, height) = (12 + (index as u32 % 7), 11 + (index as u32 % 5));
        bytes.clear();
        bytes.extend(picture(width, height, index as u32));
        Ok(Content::Rgb { width, height })
    }
}

const GEOMETRY: Geometry = Geometry { resize: 10, pad: 2, crop: 8 };
const NORMALISATION: Normalisation = Normalisation::new([127.0, 120.0, 105.0], [1.0, 2.0, 4.0]);

/// A training loader of 4 images a batch over `source`.
fn train(source: Images, last_step: u64) -> TrainLoader {
    TrainLoader {
        source,
        order: Order::Shuffled,
        geometry: GEOMETRY,
        variation: Augment::Paper.variation(LightingScale::Std),
        normalisation: NORMALISATION,
        seed: 5,
        batch: 4,
        start_step: 0,
        last_step: Some(last_step),
        max_bad_fraction: 0.01,
    }
}

/// An evaluation loader of the same geometry.
fn eval(source: Images, batch: usize, views: Views) -> EvalLoader {
    let (geometry, normalisation) = (GEOMETRY, NORMALISATION);
    let bad = Arc::new(BadImages::new(source.len(), 0.01));
    EvalLoader { source, geometry, normalisation, views, batch, bad }
}

fn delivery(shares: &[(usize, usize)], workers: usize) -> Delivery {
    Delivery {
        shares: shares.iter().map(|&(start, end)| start..end).collect(),
        consumers_per_share: 1,
        workers,
        depth: 2,
        form: Form::Finished(Output::F32),
        pinning: None,
        cancel: crate::cancel::Cancel::default(),
    }
}

/// A batch without its memory's address.
#[derive(Clone, Debug, PartialEq)]
struct Contents {
    step: u64,
    epoch: u64,
    images: Pixels,
    unfinished: Option<Unfinished>,
    labels: Vec<i64>,
    samples: Vec<u32>,
}

/// Takes every batch of every share, interleaved as lock-step consumers would; `[step][share]`.
fn drain(loader: Loader) -> Result<Vec<Vec<Contents>>, DataError> {
    let mut steps = Vec::new();
    loop {
        let mut shares = Vec::new();
        for consumers in &loader.receivers {
            if let Some(batch) = consumers[0].next()? {
                shares.push(Contents {
                    step: batch.step,
                    epoch: batch.epoch,
                    images: batch.images.clone(),
                    unfinished: batch.unfinished.clone(),
                    labels: batch.labels.clone(),
                    samples: batch.samples.clone(),
                });
            }
        }
        if shares.is_empty() {
            loader.join();
            return Ok(steps);
        }
        assert_eq!(shares.len(), loader.receivers.len(), "every share gets every batch");
        steps.push(shares);
    }
}

/// The values as a device sees them.
fn floats(pixels: &Pixels) -> Vec<f32> {
    match pixels {
        Pixels::U8(elements) => elements.iter().map(|&x| f32::from(x)).collect(),
        Pixels::Bf16(elements) => elements.iter().map(|x| x.to_f32()).collect(),
        Pixels::F32(elements) => elements.clone(),
    }
}

/// The error of opening one split.
fn open_error(root: &Path, split: Split) -> String {
    match open(root, split) {
        Ok(_) => panic!("{} opened", root.display()),
        Err(error) => {
            let message = error.to_string();
            assert_eq!(message.lines().count(), 1, "{message:?}");
            message
        }
    }
}
