//! Orders, windows, reflection, lighting and the arithmetic of the last pass.

use std::sync::Arc;

use super::{GEOMETRY, NORMALISATION, Pictures, delivery, drain, floats, picture, train};
use crate::data::augment::Showing;
use crate::data::finish::{Finisher, Frame};
use crate::data::{
    Augment, Components, CropAt, EpochOrder, Flip, Geometry, Lighting, LightingScale,
    Normalisation, Order, Variation, Views, Window, load_views,
};
use crate::random::{Key, Purpose};

const IDENTITY: Normalisation = Normalisation::new([0.0; 3], [1.0; 3]);

fn showing(sample: usize) -> Showing {
    Showing { seed: 3, epoch: 2, sample }
}

/// Cuts one window out of a picture.
fn cut(frame: (u32, u32), pad: u32, crop: u32, window: Window) -> Vec<f32> {
    let (width, height) = frame;
    let pixels = picture(width, height, 9);
    let mut out = vec![f32::NAN; (crop * crop * 3) as usize];
    let mut finisher = Finisher::default();
    finisher.set(crop, &IDENTITY, [0.0; 3]);
    finisher.window(Frame { width, height, pixels: &pixels }, pad, window, &mut out);
    out
}

/// The same, one value at a time.
fn cut_slowly(frame: (u32, u32), pad: u32, crop: u32, window: Window) -> Vec<f32> {
    let (width, height) = frame;
    let pixels = picture(width, height, 9);
    let mut out = Vec::new();
    for y in 0..crop {
        for x in 0..crop {
            let x = if window.mirrored { crop - 1 - x } else { x };
            let (column, row) = (window.left + x, window.top + y);
            let inside = (pad..pad + width).contains(&column) && (pad..pad + height).contains(&row);
            out.extend((0..3).map(|c| match inside {
                true => f32::from(pixels[(((row - pad) * width + column - pad) * 3 + c) as usize]),
                false => 0.0,
            }));
        }
    }
    out
}

#[test]
fn an_order_is_a_permutation_that_depends_on_seed_and_epoch_only() {
    let ids = |seed, epoch| {
        let order = EpochOrder::new(seed, epoch, 1000, Order::Shuffled);
        (0..1000).map(|position| order.at(position)).collect::<Vec<_>>()
    };
    let mut sorted = ids(1, 0);
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq(0..1000));
    assert_eq!(ids(1, 0), ids(1, 0));
    assert_ne!(ids(1, 0), ids(1, 1));
    assert_ne!(ids(1, 0), ids(2, 0));
    let sequential = EpochOrder::new(1, 4, 1000, Order::Sequential);
    assert!((0..1000).all(|position| sequential.at(position) == position));
}

#[test]
fn windows_equal_a_value_by_value_reference_wherever_they_lie() {
    let mut num_windows = 0;
    let small = [((10, 10), 0, 7), ((9, 12), 3, 8), ((4, 5), 6, 3), ((6, 6), 0, 6)];
    // Rows are mirrored sixteen pixels at a time.
    let large = [((18, 17), 0, 16), ((36, 35), 1, 33), ((50, 49), 0, 48)];
    for (frame, pad, crop) in small.into_iter().chain(large) {
        let geometry = Geometry { resize: 0, pad, crop };
        let slack = geometry.slack(frame.0, frame.1);
        for (left, top) in (0..=slack.0).flat_map(|l| (0..=slack.1).map(move |t| (l, t))) {
            for mirrored in [false, true] {
                let window = Window { left, top, mirrored };
                let expected = cut_slowly(frame, pad, crop, window);
                assert_eq!(cut(frame, pad, crop, window), expected, "{frame:?} {pad} {window:?}");
                num_windows += 1;
            }
        }
    }
    assert!(num_windows > 400);
}

#[test]
fn random_crops_reach_every_place_and_stay_inside() {
    let variation = Augment::CropFlip.variation(LightingScale::Std);
    let mut seen = [[[false; 2]; 4]; 6];
    for sample in 0..2000 {
        let window = variation.window((5, 3), showing(sample));
        seen[window.left as usize][window.top as usize][usize::from(window.mirrored)] = true;
    }
    assert!(seen.as_flattened().as_flattened().iter().all(|&seen| seen));
}

#[test]
fn the_names_of_augmentations_stand_for_what_they_say() {
    let variation = |augment: Augment| augment.variation(LightingScale::Eig01);
    let (crop, flip) = (CropAt::Random, Flip::Random);
    let lighting = Some(LightingScale::Eig01.into());
    assert_eq!(variation(Augment::Paper), Variation { crop, flip, lighting });
    assert_eq!(variation(Augment::CropFlip), Variation { crop, flip, lighting: None });
    let none = variation(Augment::None);
    assert_eq!(none, Variation { crop: CropAt::Centre, flip: Flip::Never, lighting: None });
    let torchvision = variation(Augment::Torchvision);
    assert_eq!(torchvision, Variation { crop: CropAt::Part, flip, lighting: None });
    assert_eq!(none.shift(showing(0)), [0.0; 3]);
}

#[test]
fn the_central_crop_is_the_central_view() {
    for slack in [(0, 0), (29, 29), (4, 9)] {
        let centre = Augment::None.variation(LightingScale::Std).window(slack, showing(1));
        assert!(Views::Centre.windows(slack).eq([centre]));
        let ten: Vec<Window> = Views::Ten.windows(slack).collect();
        assert_eq!(ten[4], centre);
        assert_eq!(ten[9], Window { mirrored: true, ..centre });
        assert_eq!(ten.len(), Views::Ten.num());
        let mirrored = |i: usize| Window { mirrored: true, ..ten[i] };
        assert_eq!(ten[5..], [1, 0, 3, 2, 4].map(mirrored));
    }
}

#[test]
fn the_ten_views_of_a_file_are_its_corners_its_centre_and_their_reflections() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("one.png");
    let pixels = picture(9, 9, 9);
    image::save_buffer(&path, &pixels, 9, 9, image::ColorType::Rgb8).expect("a new file");
    let geometry = Geometry { resize: 0, pad: 1, crop: 6 };
    let views = load_views(&path, &geometry, &IDENTITY, Views::Ten).expect("a readable file");
    let places = [(0, 0), (5, 0), (0, 5), (5, 5), (2, 2)];
    let reflected = [(5, 0), (0, 0), (5, 5), (0, 5), (2, 2)];
    let expected: Vec<f32> = [(places, false), (reflected, true)]
        .into_iter()
        .flat_map(|(places, mirrored)| places.map(|(left, top)| Window { left, top, mirrored }))
        .flat_map(|window| cut_slowly((9, 9), 1, 6, window))
        .collect();
    assert_eq!(views, expected);
    let error = load_views(&dir.path().join("two.png"), &geometry, &IDENTITY, Views::Centre);
    assert!(error.expect_err("no such file").to_string().contains("two.png"));
}

#[test]
fn lighting_adds_the_papers_sum_over_components() {
    let vectors =
        [[-0.5635f64, -0.5762, -0.5920], [-0.7126, -0.0235, 0.7012], [0.4180, -0.8170, 0.3973]];
    let scales = [
        (LightingScale::Std, [121.78, 37.09, 19.72]),
        (LightingScale::Eig01, [0.2175 * 255.0, 0.0188 * 255.0, 0.0045 * 255.0]),
    ];
    for (scale, lengths) in scales {
        for image in 0..50 {
            let key = Key::new(1, Purpose::Lighting).with(0).with(image);
            let shift = Lighting::from(scale).shift(key);
            for c in 0..3 {
                let expected: f64 =
                    (0..3).map(|k| 0.1 * key.normal(k as u64) * lengths[k] * vectors[k][c]).sum();
                assert!((f64::from(shift[c]) - expected).abs() < 1e-4);
            }
        }
    }
    for a in 0..3 {
        for b in 0..3 {
            let dot: f64 = (0..3).map(|c| vectors[a][c] * vectors[b][c]).sum();
            assert!((dot - f64::from(u8::from(a == b))).abs() < 1e-3, "orthonormal {a} {b}");
        }
    }
}

#[test]
fn a_lit_batch_is_the_unlit_one_plus_the_shift_in_64_bit_floats() {
    // Not orthogonal and not of length one, so that a transposed matrix would show.
    let directions = [[0.6, 0.8, 0.1], [-0.2, 0.5, 0.9], [0.3, -0.7, 0.4]];
    let components = Components { deviations: [90.0, 40.0, 20.0], directions };
    let batches = |lighting| {
        let mut loader = train(Arc::new(Pictures::new(8)), 4);
        loader.geometry.pad = 0;
        loader.variation.lighting = lighting;
        drain(loader.spawn(delivery(&[(0, 4)], 2)).expect("a good set")).expect("good images")
    };
    let unlit = batches(None);
    for (scale, lengths) in [
        (LightingScale::Std, [90.0, 40.0, 20.0]),
        (LightingScale::Eig01, [90.0, 40.0, 20.0].map(|x: f64| x * x / 255.0)),
    ] {
        let lit = batches(Some(Lighting::new(scale, &components)));
        for (lit, unlit) in lit.iter().flatten().zip(unlit.iter().flatten()) {
            let (values, plain) = (floats(&lit.images), floats(&unlit.images));
            for (i, (value, plain)) in values.iter().zip(plain).enumerate() {
                let (sample, c) = (lit.samples[i / (8 * 8 * 3)], i % 3);
                let key = Key::new(5, Purpose::Lighting).with(lit.epoch).with(u64::from(sample));
                let part = |k: usize| 0.1 * key.normal(k as u64) * lengths[k] * directions[k][c];
                let shift = (0..3).map(part).sum::<f64>() / f64::from(NORMALISATION.std[c]);
                let far = f64::from(*value) - f64::from(plain) - shift;
                assert!(far.abs() < 1e-4, "{scale:?} {i}: off by {far}");
            }
        }
    }
}

#[test]
fn pixels_are_shifted_then_normalised_and_padding_is_zero() {
    let (pixels, shift) = (picture(4, 4, 2), [3.0, -5.0, 7.0]);
    let mut finisher = Finisher::default();
    finisher.set(6, &NORMALISATION, shift);
    let mut out = vec![f32::NAN; 6 * 6 * 3];
    let window = Window { left: 0, top: 0, mirrored: false };
    finisher.window(Frame { width: 4, height: 4, pixels: &pixels }, 1, window, &mut out);
    for (i, &value) in out.iter().enumerate() {
        let (y, x, c) = (i / 18, i / 3 % 6, i % 3);
        let expected = if (1..5).contains(&x) && (1..5).contains(&y) {
            let pixel = f64::from(pixels[((y - 1) * 4 + x - 1) * 3 + c]);
            (pixel + f64::from(shift[c]) - f64::from(NORMALISATION.mean[c]))
                / f64::from(NORMALISATION.std[c])
        } else {
            0.0
        };
        assert!((f64::from(value) - expected).abs() < 1e-4, "{y} {x} {c}: {value} {expected}");
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused_with_the_numbers() {
    let message = |geometry: Geometry| geometry.check().expect_err("a bad geometry").to_string();
    assert!(GEOMETRY.check().is_ok());
    assert!(message(Geometry { resize: 20, pad: 1, crop: 23 }).contains("padded frame (22)"));
    assert!(message(Geometry { crop: 0, ..GEOMETRY }).contains("at least 1"));
    assert!(message(Geometry { resize: 1 << 30, ..GEOMETRY }).contains("at most 4096"));
    let flat = Normalisation::new([0.0; 3], [1.0, 0.0, 1.0]);
    assert!(flat.check().is_err());
}

#[test]
fn large_images_of_bytes_equal_a_value_by_value_reference() {
    let (frame, crop) = ((160, 151), 149);
    let pixels = picture(frame.0, frame.1, 9);
    let mut finisher = Finisher::default();
    finisher.set(crop, &IDENTITY, [0.0; 3]);
    for (left, mirrored) in [(0, false), (11, true), (4, true)] {
        let window = Window { left, top: 1, mirrored };
        let expected = cut_slowly(frame, 0, crop, window);
        for start in [0, 1, 15] {
            let mut out = vec![0u8; expected.len() + start];
            let frame = Frame { width: frame.0, height: frame.1, pixels: &pixels };
            finisher.window(frame, 0, window, &mut out[start..]);
            assert!(out[start..].iter().map(|&x| f32::from(x)).eq(expected.iter().copied()));
        }
    }
}

#[test]
fn a_large_image_is_the_same_streamed_and_not() {
    let (side, crop) = (150, 131);
    let pixels = picture(side, side, 4);
    let mut finisher = Finisher::default();
    finisher.set(crop, &NORMALISATION, [1.5, -2.5, 3.5]);
    for (left, mirrored) in [(0, false), (19, true), (7, false)] {
        let window = Window { left, top: 3, mirrored };
        let frame = Frame { width: side, height: side, pixels: &pixels };
        // The row alone is too small to be streamed.
        let values = (crop * crop * 3) as usize;
        for start in [0, 1, 15] {
            let mut whole = vec![f32::NAN; values + start];
            finisher.window(frame, 0, window, &mut whole[start..]);
            for y in 0..crop {
                let mut row = vec![f32::NAN; crop as usize * 3];
                let window = Window { top: 3 + y, ..window };
                finisher.window(frame, 0, window, &mut row);
                assert_eq!(row, whole[start + y as usize * row.len()..][..row.len()], "{window:?}");
            }
        }
    }
}
