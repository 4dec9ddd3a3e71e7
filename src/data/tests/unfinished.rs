//! Batches of bytes with what is left to do, against finished ones.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use half::bf16;

use super::{Contents, Pictures, Plain, delivery, drain, eval, train};
use crate::data::mean_image::MeanImage;
use crate::data::{
    Augment, Delivery, Form, Geometry, Images, LightingScale, Output, Pinning, Pixels, Views,
};
use crate::kernels::finish::Finish;

fn finish(batch: &Contents, crop: usize, output: Output) -> Pixels {
    let (Pixels::U8(pixels), Some(rest)) = (&batch.images, &batch.unfinished) else {
        panic!("not what was asked for");
    };
    let (windows, offsets) = (&rest.windows[..], &rest.offsets[..]);
    let images = Finish { pixels, crop, windows, offsets, scale: rest.scale };
    match output {
        Output::Bf16 => {
            let mut out = vec![bf16::ZERO; pixels.len()];
            images.run(&mut out);
            Pixels::Bf16(out)
        }
        _ => {
            let mut out = vec![0.0; pixels.len()];
            images.run(&mut out);
            Pixels::F32(out)
        }
    }
}

/// Compares what two deliveries of the same batches come to.
fn same(load: impl Fn(Delivery) -> Vec<Vec<Contents>>, crop: u32) {
    for output in [Output::F32, Output::Bf16] {
        let to = |form| Delivery { form, ..delivery(&[(0, 1), (1, 4)], 2) };
        let finished = load(to(Form::Finished(output)));
        let left = load(to(Form::Unfinished));
        assert_eq!(finished.len(), left.len());
        for (finished, left) in finished.iter().flatten().zip(left.iter().flatten()) {
            assert_eq!(finish(left, crop as usize, output), finished.images, "{output:?}");
            assert_eq!((&left.labels, &left.samples), (&finished.labels, &finished.samples));
        }
    }
}

#[test]
fn training_images_come_to_the_same_bits() {
    let pictures: Images = Arc::new(Pictures::new(18));
    let geometries = [
        Geometry { resize: 10, pad: 2, crop: 8 },
        // Padding on both sides of a window.
        Geometry { resize: 6, pad: 2, crop: 9 },
        Geometry { resize: 0, pad: 0, crop: 11 },
        Geometry { resize: 0, pad: 3, crop: 15 },
    ];
    let augments = [Augment::Paper, Augment::CropFlip, Augment::Torchvision, Augment::None];
    for (geometry, augment) in geometries.iter().flat_map(|g| augments.map(|a| (*g, a))) {
        if geometry.pad > 0 && augment == Augment::Torchvision {
            continue; // parts of images are not padded
        }
        let load = |to| {
            let mut loader = train(Arc::clone(&pictures), 6);
            (loader.geometry, loader.variation) = (geometry, augment.variation(LightingScale::Std));
            drain(loader.spawn(to).expect("a good set")).expect("no bad image")
        };
        same(load, geometry.crop);
    }
}

#[test]
fn all_views_of_test_images_come_to_the_same_bits_without_those_that_cannot_be_read() {
    let mut plain = Plain::new(120, 13);
    plain.bad = |index| index == 1;
    let plain: Images = Arc::new(plain);
    for views in [Views::Centre, Views::Ten] {
        let load = |to| {
            let loader = eval(Arc::clone(&plain), 4, views).spawn(to).expect("a good set");
            drain(loader).expect("few bad images")
        };
        same(load, 8);
    }
}

#[test]
fn a_mean_image_is_not_left_to_the_device() {
    let mut loader = train(Arc::new(Plain::new(8, 13)), 1);
    let mean = MeanImage::new(10, 10, vec![1.0; 300]);
    loader.normalisation.mean_image = Some(Arc::new(mean));
    let to = Delivery { form: Form::Unfinished, ..delivery(&[(0, 4)], 1) };
    let error = loader.spawn(to).err().expect("a mean image").to_string();
    assert!(error.contains("mean image") && error.contains("loader"), "{error}");
}

/// Keeps the first and last byte of what is pinned now.
#[derive(Debug, Default)]
struct Pins(Arc<Mutex<BTreeSet<(usize, usize)>>>);

struct Held(Arc<Mutex<BTreeSet<(usize, usize)>>>, (usize, usize));

impl Pinning for Pins {
    fn pin(&self, address: usize, num_bytes: usize) -> Box<dyn Any + Send + Sync> {
        let range = (address, address + num_bytes - 1);
        assert!(self.0.lock().expect("no panic").insert(range), "pinned twice");
        Box::new(Held(Arc::clone(&self.0), range))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().expect("no panic").remove(&self.1);
    }
}

#[test]
fn memory_is_pinned_by_whole_pages_as_long_as_batches_may_lie_in_it() {
    let pins = Arc::new(Pins::default());
    let pinning: Option<Arc<dyn Pinning>> = Some(Arc::<Pins>::clone(&pins));
    let to = Delivery { form: Form::Unfinished, pinning, ..delivery(&[(0, 4)], 2) };
    let loader = train(Arc::new(Pictures::new(18)), 20).spawn(to).expect("a good set");
    let pinned = |address: usize| {
        let pins = pins.0.lock().expect("no panic");
        pins.iter().any(|&(first, last)| (first..=last).contains(&address))
    };
    let ranges: Vec<_> = pins.0.lock().expect("no panic").iter().copied().collect();
    assert_eq!(ranges.len(), 5 * 4, "images, windows, offsets and labels of depth + 3 slots");
    let page = 1 << 16;
    assert!(ranges.windows(2).all(|pair| pair[0].1 / page < pair[1].0 / page), "{ranges:x?}");
    let mut kept = None;
    for _ in 0..20 {
        let batch = loader.receivers[0][0].next().expect("no bad image").expect("not the end");
        let Pixels::U8(bytes) = &batch.images else { panic!("not what was asked for") };
        let rest = batch.unfinished.as_ref().expect("what was asked for");
        let addresses = [
            bytes.as_ptr() as usize,
            rest.windows.as_ptr() as usize,
            rest.offsets.as_ptr() as usize,
            batch.labels.as_ptr() as usize,
        ];
        assert!(addresses.into_iter().all(pinned));
        kept = Some(batch);
    }
    loader.join();
    let kept = kept.expect("twenty batches");
    assert!(pinned(kept.labels.as_ptr() as usize), "the loader is gone, the batch is not");
    drop(kept);
    assert!(pins.0.lock().expect("no panic").is_empty());
}
