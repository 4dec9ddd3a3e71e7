//! Fitted statistics against a two-pass reference in 64-bit floats, and their file.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Pictures, Plain};
use crate::data::moments::Moments;
use crate::data::{Components, DataError, Fit, Images, Source, Stats};

fn fit(source: Images, resize: u32) -> Fit {
    Fit { source, resize, limit: None, workers: 2, max_bad_fraction: 0.01 }
}

fn fitted(source: Images, resize: u32) -> Stats {
    fit(source, resize).run(|| ()).expect("good images")
}

/// Every pixel of every image of a set whose images are taken as they are.
fn pixels(source: &dyn Source) -> Vec<[f64; 3]> {
    let mut all = Vec::new();
    let mut bytes = Vec::new();
    for index in 0..source.len() {
        source.read(index, &mut bytes).expect("a readable image");
        all.extend(bytes.as_chunks::<3>().0.iter().map(|pixel| pixel.map(f64::from)));
    }
    all
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|c| a[c] * b[c]).sum()
}

#[test]
fn mean_and_covariance_are_those_of_a_two_pass_reference() {
    let source: Images = Arc::new(Pictures::new(23));
    let stats = fitted(Arc::clone(&source), 0);
    let pixels = pixels(&*source);
    let num = pixels.len() as f64;
    let mean = [0, 1, 2].map(|c| pixels.iter().map(|pixel| pixel[c]).sum::<f64>() / num);
    assert_eq!((stats.num_images, stats.moments.num_pixels), (23, pixels.len() as u64));
    for i in 0..3 {
        assert!((stats.colours.mean[i] - mean[i]).abs() < 1e-10);
        for j in 0..3 {
            let product = |pixel: &[f64; 3]| (pixel[i] - mean[i]) * (pixel[j] - mean[j]);
            let covariance = pixels.iter().map(product).sum::<f64>() / num;
            let got = stats.colours.covariance[i][j];
            assert!((got - covariance).abs() < 1e-8, "{i} {j}: {got}, not {covariance}");
        }
        assert!((stats.colours.std[i].powi(2) - stats.colours.covariance[i][i]).abs() < 1e-9);
    }
    assert_eq!(stats.mean_image, None, "the pictures are of different sizes");
}

#[test]
fn sums_that_no_pixels_have_are_not_taken_for_pixels() {
    let moments = Moments::of(&(0..=254).collect::<Vec<u8>>());
    assert!(moments.are_of_pixels() && Moments::default().are_of_pixels());
    assert!(Moments::of(&[255; 300]).are_of_pixels() && Moments::of(&[0; 300]).are_of_pixels());
    let damage: [fn(&mut Moments); 5] = [
        |m| m.num_pixels = 1,
        |m| m.sums[2] = 256 * m.num_pixels,
        |m| m.products[1] = 256 * m.sums[0],
        |m| m.products[5] = u64::MAX,
        |m| m.products[0] /= 2,
    ];
    for damage in damage {
        let mut moments = moments;
        damage(&mut moments);
        assert!(!moments.are_of_pixels(), "{moments:?}");
    }
}

#[test]
fn a_file_of_sums_that_no_pixels_have_is_damaged() {
    let mut stats = fitted(Arc::new(Pictures::new(2)), 10);
    stats.moments.num_pixels /= 100;
    let problem =
        Stats::of_bytes(&stats.to_bytes().expect("a file")).expect_err("a mean above 255");
    assert_eq!(problem, "has sums that no pixels have");
}

#[test]
fn components_are_orthonormal_eigenvectors_in_falling_order_with_a_fixed_sign() {
    let ramp: Vec<u8> = (0..3000u32).map(|i| (i * i * 7 % 251 / (1 + i % 3)) as u8).collect();
    let grey: Vec<u8> = (0..=255).flat_map(|level| [level; 3]).collect();
    let pure: Vec<u8> =
        (0..=255).flat_map(|level| [[level, 9, 9], [0, level, 9]].concat()).collect();
    for pixels in [ramp, grey, pure, vec![80; 30]] {
        let colours = Moments::of(&pixels).statistics().expect("there are pixels");
        let scale = colours.covariance.as_flattened().iter().fold(1.0, |a: f64, b| a.max(b.abs()));
        let [a, b, c] = colours.component_std;
        assert!(a >= b && b >= c && c >= 0.0, "{:?}", colours.component_std);
        for (k, vector) in colours.components.into_iter().enumerate() {
            let variance = colours.component_std[k].powi(2);
            for (i, row) in colours.covariance.into_iter().enumerate() {
                assert!(
                    (dot(row, vector) - variance * vector[i]).abs() < 1e-10 * scale,
                    "{vector:?}"
                );
            }
            for (l, other) in colours.components.into_iter().enumerate() {
                assert!((dot(vector, other) - f64::from(u8::from(k == l))).abs() < 1e-12);
            }
            let largest = vector.into_iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            assert!(vector.iter().any(|entry| largest - entry < 1e-12), "{vector:?}");
        }
    }
}

#[test]
fn grey_levels_and_eigenvalues_of_pixels_from_0_to_1_are_the_same_variance() {
    let torch = Components::IMAGENET.eigenvalues01();
    // fb.resnet.torch's constants are of another sample of the same images.
    for (ours, theirs) in torch.into_iter().zip([0.2175, 0.0188, 0.0045]) {
        assert!((ours / theirs - 1.0).abs() < 0.35, "{ours} {theirs}");
    }
    assert!((torch[0] * 255.0 * 255.0 - 121.78 * 121.78).abs() < 1e-9);
}

#[test]
fn the_mean_image_is_the_mean_of_the_frames_pixel_by_pixel() {
    let stats = fitted(Arc::new(Pictures::new(12)), 10);
    let image = stats.mean_image.expect("all frames are 10x10");
    assert_eq!((image.width(), image.height()), (10, 10));
    let mut sums = vec![0.0; 300];
    for index in 0..12 {
        let mut bytes = Vec::new();
        let source = Pictures::new(12);
        source.read(index, &mut bytes).expect("a readable image");
        let alone = Arc::new(One { source, index });
        let alone = fitted(alone, 10).mean_image.expect("one frame");
        sums.iter_mut().zip(alone.values()).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    for (sum, mean) in sums.into_iter().zip(image.values()) {
        assert_eq!((sum / 12.0) as f32, *mean);
    }
}

/// One image of a set.
struct One {
    source: Pictures,
    index: usize,
}

impl Source for One {
    fn len(&self) -> usize {
        1
    }

    fn classes(&self) -> &[String] {
        self.source.classes()
    }

    fn label(&self, _: usize) -> usize {
        0
    }

    fn name(&self, _: usize) -> String {
        self.source.name(self.index)
    }

    fn read(&self, _: usize, bytes: &mut Vec<u8>) -> std::io::Result<crate::data::Content> {
        self.source.read(self.index, bytes)
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let with = |workers| {
        let fit = Fit { workers, ..fit(Arc::new(Pictures::new(40)), 10) };
        fit.run(|| ()).expect("good images")
    };
    let one = with(1);
    assert_eq!(one, with(2));
    assert_eq!(one, with(7));
}

#[test]
fn a_limit_takes_images_evenly_spaced_and_each_is_reported() {
    // Image `i` is all red `i`.
    let source = Arc::new(Plain::new(200, 4));
    let looked = AtomicUsize::new(0);
    let count = || {
        looked.fetch_add(1, Ordering::Relaxed);
    };
    let fit = Fit { limit: Some(5), ..fit(source.clone(), 0) };
    let stats = fit.run(count).expect("good images");
    assert_eq!(stats.colours.mean[0], (40 + 80 + 120 + 160) as f64 / 5.0);
    assert_eq!((stats.num_images, looked.into_inner()), (5, 5));
    assert_eq!(source.reads.load(Ordering::Relaxed), 5);
    let all = Fit { limit: Some(1000), ..fit };
    assert_eq!(all.run(|| ()).expect("good images").num_images, 200);
}

#[test]
fn bad_images_are_left_out_and_too_many_are_an_error() {
    let with = |bad| {
        let mut source = Plain::new(200, 4);
        source.bad = bad;
        fit(Arc::new(source), 0).run(|| ())
    };
    let stats = with(|index| index == 7).expect("one bad image in 200 is tolerated");
    assert_eq!(stats.num_images, 199);
    let error = with(|index| index % 2 == 0).expect_err("half of them are bad");
    assert!(matches!(error, DataError::TooManyBad { .. }), "{error}");
}

#[test]
fn statistics_are_read_back_as_they_were_written() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join(Stats::FILE);
    for resize in [0, 10] {
        let stats = fitted(Arc::new(Pictures::new(9)), resize);
        stats.write(&path).expect("a writable folder");
        assert_eq!(Stats::read(&path).expect("just written"), stats);
    }
    assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1, "nothing else is left");
}

#[test]
fn a_file_that_is_damaged_or_something_else_is_named_with_the_way_out() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join(Stats::FILE);
    fitted(Arc::new(Pictures::new(9)), 10).write(&path).expect("a writable folder");
    let whole = fs::read(&path).expect("just written");
    let other = safetensors::serialize(Vec::<(&str, safetensors::tensor::TensorView)>::new(), None);
    let mut cuts: Vec<_> = [0, 7, 9, 200, whole.len() - 1].map(|len| whole[..len].to_vec()).into();
    cuts.push(other.expect("a valid file"));
    for bytes in cuts {
        fs::write(&path, &bytes).expect("writable");
        let error = Stats::read(&path).expect_err("it is damaged").to_string();
        assert!(error.contains(Stats::FILE), "{error}");
        assert!(error.contains("make it again with `alexnet-mgpu stats`"), "{error}");
    }
    let missing = Stats::read(&dir.path().join("none")).expect_err("no such file");
    assert!(missing.to_string().contains("none"), "{missing}");
}
