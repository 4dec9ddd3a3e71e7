//! Random parts of images: torchvision's distribution, and pixels that end where the part ends.

use std::sync::Arc;

use image::RgbImage;

use super::{Pictures, delivery, drain, floats, jpeg, picture, png, train};
use crate::data::cover::{Cover, Drawing, Part};
use crate::data::worker::{Loaded, Worker};
use crate::data::{Augment, Geometry, LightingScale};
use crate::random::{Key, Purpose};

fn key(sample: u64) -> Key {
    Key::new(5, Purpose::Crop).with(sample)
}

/// Means over many parts: area over the image's, its square, log of width over height, left, top.
fn means(width: u32, height: u32) -> [f64; 5] {
    const NUM: u64 = 100_000;
    let mut sums = [0.0; 5];
    for sample in 0..NUM {
        let part = Part::random(width, height, key(sample));
        assert!(part.left + part.width <= width && part.top + part.height <= height, "{part:?}");
        let (w, h) = (f64::from(part.width), f64::from(part.height));
        let area = w * h / (f64::from(width) * f64::from(height));
        let values = [area, area * area, (w / h).ln(), part.left.into(), part.top.into()];
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
    sums.map(|sum| sum / NUM as f64)
}

#[test]
fn random_parts_are_distributed_as_torchvisions() {
    // torchvision 0.26, RandomResizedCrop.get_params, 300,000 draws each: mean and deviation of the
    // area, mean log ratio, mean left and top.
    let expected = [
        ((500, 375), [0.4332, 0.2163, 0.0304, 109.14, 52.33]),
        ((300, 700), [0.2676, 0.1173, -0.0357, 36.72, 231.10]),
    ];
    for ((width, height), [area, deviation, ratio, left, top]) in expected {
        let got = means(width, height);
        assert!((got[0] - area).abs() < 0.003, "{got:?}");
        assert!(((got[1] - got[0] * got[0]).sqrt() - deviation).abs() < 0.003, "{got:?}");
        assert!((got[2] - ratio).abs() < 0.002, "{got:?}");
        assert!((got[3] / left - 1.0).abs() < 0.02 && (got[4] / top - 1.0).abs() < 0.02, "{got:?}");
    }
}

#[test]
fn where_no_part_fits_the_largest_central_one_of_an_allowed_shape_is_taken() {
    for sample in 0..100 {
        let tall = Part::random(30, 3000, key(sample));
        assert_eq!(tall, Part { left: 0, top: 1480, width: 30, height: 40 });
        let wide = Part::random(3000, 30, key(sample));
        assert_eq!(wide, Part { left: 1480, top: 0, width: 40, height: 30 });
        let dot = Part::random(1, 1, key(sample));
        assert_eq!(dot, Part { left: 0, top: 0, width: 1, height: 1 });
    }
}

/// The frame that a worker draws of an image in a file.
fn drawn(bytes: &[u8], cover: Cover) -> Vec<u8> {
    let mut worker = Worker::default();
    worker.decode(bytes, |_, _| Some(Drawing::whole(cover))).expect("a valid image");
    worker.frame(Loaded::Worker).pixels.to_vec()
}

fn png_of(pixels: &[u8], width: u32, height: u32) -> Vec<u8> {
    let picture = RgbImage::from_raw(width, height, pixels.to_vec()).expect("enough pixels");
    png(&picture.into())
}

#[test]
fn a_part_is_resized_as_if_the_image_ended_at_its_border() {
    let (width, height) = (61, 47);
    let pixels = picture(width, height, 3);
    let parts = [(0, 0, 61, 47), (7, 11, 30, 20), (60, 46, 1, 1), (13, 0, 48, 5), (20, 20, 9, 9)];
    for (left, top, w, h) in parts {
        let part = Part { left, top, width: w, height: h };
        let rows = (top..top + h).map(|y| ((y * width + left) * 3) as usize);
        let cut: Vec<u8> = rows.flat_map(|at| &pixels[at..][..w as usize * 3]).copied().collect();
        let alone = Part { left: 0, top: 0, width: w, height: h };
        let expected = drawn(&png_of(&cut, w, h), Cover::part(16, alone));
        assert_eq!(
            drawn(&png_of(&pixels, width, height), Cover::part(16, part)),
            expected,
            "{part:?}"
        );
    }
}

#[test]
fn both_decoders_draw_the_same_part() {
    let file = jpeg(150, 110, 7);
    for (left, top, w, h) in [(0, 0, 150, 110), (31, 17, 60, 51), (99, 3, 20, 30), (1, 1, 3, 3)] {
        let cover = Cover::part(32, Part { left, top, width: w, height: h });
        let mut worker = Worker::default();
        worker.decode_whole(&file, |_, _| Some(Drawing::whole(cover))).expect("a valid JPEG");
        let (whole, region) = (worker.frame(Loaded::Worker).pixels.to_vec(), drawn(&file, cover));
        let far: u32 = whole.iter().zip(&region).map(|(&a, &b)| u32::from(a.abs_diff(b))).sum();
        let far = f64::from(far) / whole.len() as f64;
        assert!(far < 2.0, "a mean difference of {far} in {left} {top} {w} {h}");
    }
}

#[test]
fn batches_of_random_parts_do_not_depend_on_the_workers_and_change_every_epoch() {
    let batches = |workers| {
        let mut loader = train(Arc::new(Pictures::new(4)), 3);
        loader.variation = Augment::Torchvision.variation(LightingScale::Std);
        loader.geometry = Geometry { pad: 0, ..loader.geometry };
        drain(loader.spawn(delivery(&[(0, 4)], workers)).expect("a good set")).expect("good images")
    };
    let one = batches(1);
    assert_eq!(one, batches(3));
    // The first image of the set in both epochs.
    let first = |step: usize| {
        let batch = &one[step][0];
        let at = batch.samples.iter().position(|&sample| sample == 0).expect("every image");
        let images = floats(&batch.images);
        images.chunks(images.len() / 4).nth(at).expect("four images").to_vec()
    };
    assert_ne!(first(0), first(1));
}

#[test]
fn parts_and_padding_exclude_each_other() {
    let mut loader = train(Arc::new(Pictures::new(4)), 1);
    loader.variation = Augment::Torchvision.variation(LightingScale::Std);
    loader.geometry.pad = 2;
    let error = loader.spawn(delivery(&[(0, 4)], 1)).err().expect("there is padding").to_string();
    assert!(error.contains("set pad to 0, not 2"), "{error}");
}
