//! A mean image is subtracted where it lies over the frame, whatever window of it is shown.

use std::sync::Arc;

use half::bf16;

use super::{NORMALISATION, Pictures, delivery, drain, eval, floats, picture, train};
use crate::data::finish::{Finisher, Frame};
use crate::data::{
    Augment, CropAt, Flip, Images, LightingScale, MeanImage, Normalisation, Variation, Views,
    Window,
};

/// A mean image in which every value differs from its neighbours.
fn mean_image(width: u32, height: u32) -> MeanImage {
    let value = |i: u32| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 300.0;
    MeanImage::new(width, height, (0..width * height * 3).map(value).collect())
}

fn with_image(width: u32, height: u32) -> Normalisation {
    Normalisation { mean_image: Some(Arc::new(mean_image(width, height))), ..NORMALISATION }
}

/// The value at (x, y, c) of a window, in 64-bit floats.
fn expected(
    frame: Frame<'_>,
    normalisation: &Normalisation,
    shift: [f32; 3],
    (pad, crop): (u32, u32),
    window: Window,
    [x, y, c]: [u32; 3],
) -> f64 {
    let x = if window.mirrored { crop - 1 - x } else { x };
    let (column, row) = (window.left + x, window.top + y);
    let inside =
        (pad..pad + frame.width).contains(&column) && (pad..pad + frame.height).contains(&row);
    if !inside {
        return 0.0;
    }
    let at = (((row - pad) * frame.width + column - pad) * 3 + c) as usize;
    let mean = normalisation.mean_image.as_ref().expect("there is one").values()[at];
    let pixel = f64::from(frame.pixels[at]) + f64::from(shift[c as usize]);
    (pixel - f64::from(mean)) / f64::from(normalisation.std[c as usize])
}

#[test]
fn every_window_equals_a_value_by_value_reference() {
    let shift = [3.0, -5.0, 7.0];
    let mut finisher = Finisher::default();
    // The last is large enough to be streamed.
    for ((width, height), pad, crop) in [((10, 10), 0, 7), ((9, 12), 3, 8), ((150, 140), 0, 131)] {
        let pixels = picture(width, height, 9);
        let frame = Frame { width, height, pixels: &pixels };
        let normalisation = with_image(width, height);
        finisher.set(crop, &normalisation, shift);
        let slack = (width + 2 * pad - crop, height + 2 * pad - crop);
        for (left, top) in [(0, 0), (1, 2), slack, (slack.0 / 2, slack.1 / 3)] {
            for mirrored in [false, true] {
                let window = Window { left, top, mirrored };
                let mut out = vec![f32::NAN; (crop * crop * 3) as usize];
                finisher.window(frame, pad, window, &mut out);
                let mut narrow = vec![bf16::NAN; out.len()];
                finisher.window(frame, pad, window, &mut narrow);
                for (i, &value) in (0..).zip(&out) {
                    let at = [i / 3 % crop, i / 3 / crop, i % 3];
                    let expected = expected(frame, &normalisation, shift, (pad, crop), window, at);
                    assert!((f64::from(value) - expected).abs() < 1e-4, "{window:?} {at:?}");
                    assert_eq!(narrow[i as usize], bf16::from_f32(value), "{window:?} {at:?}");
                }
            }
        }
    }
}

#[test]
fn a_mean_image_of_one_colour_is_that_colour() {
    let colour: Vec<f32> = NORMALISATION.mean.repeat(100);
    let flat = Normalisation {
        mean_image: Some(Arc::new(MeanImage::new(10, 10, colour))),
        ..NORMALISATION
    };
    let batches = |normalisation| {
        let mut loader = train(Arc::new(Pictures::new(18)), 6);
        loader.normalisation = normalisation;
        drain(loader.spawn(delivery(&[(0, 4)], 2)).expect("a good set")).expect("good images")
    };
    for (a, b) in batches(flat).iter().flatten().zip(batches(NORMALISATION).iter().flatten()) {
        for (a, b) in floats(&a.images).iter().zip(floats(&b.images)) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }
}

#[test]
fn training_and_evaluation_subtract_the_same_image() {
    let source: Images = Arc::new(Pictures::new(8));
    let mut training = train(Arc::clone(&source), 2);
    training.variation = Variation { crop: CropAt::Centre, flip: Flip::Never, lighting: None };
    training.normalisation = with_image(10, 10);
    let mut evaluation = eval(source, 4, Views::Centre);
    evaluation.normalisation = with_image(10, 10);
    let to = || delivery(&[(0, 4)], 2);
    let shown = drain(training.spawn(to()).expect("a good set")).expect("good images");
    let tested = drain(evaluation.spawn(to()).expect("a good set")).expect("good images");
    let by_sample = |batches: Vec<Vec<super::Contents>>| {
        let mut images = Vec::new();
        for batch in batches.into_iter().flatten() {
            let values = floats(&batch.images);
            let each = values.chunks(values.len() / batch.samples.len()).map(<[f32]>::to_vec);
            images.extend(batch.samples.iter().copied().zip(each));
        }
        images.sort_by_key(|(sample, _)| *sample);
        images
    };
    assert_eq!(by_sample(shown), by_sample(tested));
}

#[test]
fn frames_of_another_size_and_random_parts_are_refused() {
    let mut loader = train(Arc::new(Pictures::new(8)), 2);
    loader.normalisation = with_image(11, 10);
    let running = loader.clone().spawn(delivery(&[(0, 4)], 2)).expect("a good set");
    let error = drain(running).expect_err("frames are 10x10").to_string();
    assert!(error.contains("mean image is 11x10") && error.contains("10x10"), "{error}");
    loader.variation = Augment::Torchvision.variation(LightingScale::Std);
    loader.geometry.pad = 0;
    let error = loader.spawn(delivery(&[(0, 4)], 2)).err().expect("parts").to_string();
    assert!(error.contains("no mean image"), "{error}");
}
