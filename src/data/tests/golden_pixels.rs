//! Our pixels against Pillow's and torchvision's, as scripts/golden-pixels.py wrote them.
//!
//! `ALEXNET_GOLDEN_PIXELS` names a file the script made of other pictures, such as photographs:
//! `cargo test --release --lib golden_pixels -- --nocapture` then prints how far apart they are.

use std::fs;
use std::path::PathBuf;

use safetensors::SafeTensors;
use serde::Deserialize;

use crate::data::cover::{Cover, Drawing, Needed, Part};
use crate::data::worker::{Loaded, Worker};
use crate::data::{Geometry, Normalisation, Views, Window};

/// What the script says about its pictures.
#[derive(Deserialize)]
struct Settings {
    names: Vec<String>,
    resize: u32,
    crop: u32,
    window: (u32, u32),
    mean: [f64; 3],
    std: [f64; 3],
}

struct Golden {
    bytes: Vec<u8>,
    settings: Settings,
    are_generated: bool,
}

impl Golden {
    fn open() -> Self {
        let other = std::env::var_os("ALEXNET_GOLDEN_PIXELS");
        let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/pixels.safetensors");
        let are_generated = other.is_none();
        let path = other.map_or_else(|| committed.into(), PathBuf::from);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("the script wrote it");
        let settings = &header.metadata().as_ref().expect("settings")["settings"];
        let settings = serde_json::from_str(settings).expect("the script's settings");
        Self { bytes, settings, are_generated }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("the script wrote it")
    }

    fn geometry(&self) -> Geometry {
        Geometry { resize: self.settings.resize, pad: 0, crop: self.settings.crop }
    }
}

/// The two ways from a file to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Path {
    /// The whole image is decoded, then resized.
    Whole,
    /// Only what is needed is decoded and resized.
    Region,
}

impl Path {
    fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Region => "by region",
        }
    }

    /// The mean difference allowed, in grey levels: decoders differ by rounding and in how they
    /// enlarge colours, and the second does not enlarge them at all.
    fn tolerance(self) -> f64 {
        match self {
            Self::Whole => 1.0,
            Self::Region => 2.0,
        }
    }
}

/// The levels of `windows` of a file, or `None` where the path does not lead there.
fn levels(
    path: Path,
    file: &[u8],
    geometry: &Geometry,
    drawing: impl Fn(u32, u32) -> Option<Drawing>,
    windows: &[Window],
) -> Option<Vec<f32>> {
    const LEVELS: Normalisation = Normalisation::new([0.0; 3], [1.0; 3]);
    finished(path, file, geometry, &LEVELS, drawing, windows)
}

fn finished(
    path: Path,
    file: &[u8],
    geometry: &Geometry,
    normalisation: &Normalisation,
    drawing: impl Fn(u32, u32) -> Option<Drawing>,
    windows: &[Window],
) -> Option<Vec<f32>> {
    let mut worker = Worker::default();
    match path {
        Path::Whole => worker.decode_whole(file, drawing).expect("a valid JPEG"),
        Path::Region => worker.decode_region(file, drawing).ok()?,
    }
    let mut out = vec![f32::NAN; windows.len() * geometry.num_values()];
    let windows = windows.to_vec();
    worker
        .finish(Loaded::Worker, geometry, normalisation, [0.0; 3], |_| windows, &mut &mut out[..])
        .expect("there is no mean image");
    Some(out)
}

/// How far levels are from the expected ones: in the mean, and at most.
fn difference(got: &[f32], expected: &[u8]) -> (f64, f64) {
    assert_eq!(got.len(), expected.len());
    let far = |(&got, &expected): (&f32, &u8)| f64::from((got - f32::from(expected)).abs());
    let differences = got.iter().zip(expected).map(far);
    let most = differences.clone().fold(0.0, f64::max);
    (differences.sum::<f64>() / got.len() as f64, most)
}

/// One kind of preparation: what it is called in the file, and how we do it.
struct Case {
    name: String,
    drawing: Box<dyn Fn(u32, u32) -> Option<Drawing>>,
    window: Window,
}

fn cases(golden: &Golden, name: &str) -> Vec<Case> {
    let geometry = golden.geometry();
    let slack = geometry.slack(geometry.resize, geometry.resize);
    let Some(centre) = Views::Centre.windows(slack).next() else { unreachable!("one view") };
    let (left, top) = golden.settings.window;
    let cropped = Window { left, top, mirrored: true };
    let of_frame = |what: &str, window| Case {
        name: format!("{name}.{what}"),
        drawing: Box::new(move |width, height| {
            geometry.drawing(width, height, |_| Needed::Window(window))
        }),
        window,
    };
    let mut cases = vec![of_frame("centre", centre), of_frame("window", cropped)];
    let parts = golden.tensors();
    let parts = parts.tensor(&format!("{name}.parts")).expect("rectangles");
    let numbers = parts.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
    let numbers: Vec<u32> = numbers.map(|x| u32::try_from(x).expect("in the picture")).collect();
    for (k, &[left, top, width, height]) in numbers.as_chunks::<4>().0.iter().enumerate() {
        let cover = Cover::part(geometry.crop, Part { left, top, width, height });
        cases.push(Case {
            name: format!("{name}.part.{k}"),
            drawing: Box::new(move |_, _| Some(Drawing::whole(cover))),
            window: Window { left: 0, top: 0, mirrored: false },
        });
    }
    cases
}

/// Differences of one preparation on one path, over all pictures.
#[derive(Default)]
struct Spread {
    means: Vec<f64>,
    most: f64,
}

impl Spread {
    fn line(&self) -> String {
        let worst = self.means.iter().copied().fold(0.0, f64::max);
        let mean = self.means.iter().sum::<f64>() / self.means.len() as f64;
        format!("{} | {mean:.3} | {worst:.3} | {:.0} |", self.means.len(), self.most)
    }
}

#[test]
fn crops_and_parts_are_pillows_to_a_level_whole_and_to_two_by_region() {
    let golden = Golden::open();
    let (tensors, geometry) = (golden.tensors(), golden.geometry());
    let mut spreads = std::collections::BTreeMap::<(String, Path), Spread>::new();
    for name in &golden.settings.names {
        let file = tensors.tensor(&format!("{name}.jpg")).expect("the picture").data();
        for Case { name: case, drawing, window } in cases(&golden, name) {
            let expected = tensors.tensor(&case).expect("its pixels").data();
            for path in [Path::Whole, Path::Region] {
                let got = levels(path, file, &geometry, &drawing, &[window]);
                let Some(got) = got else {
                    let may_lack = !golden.are_generated;
                    assert!(may_lack, "{case} is not drawn by {path:?}");
                    continue;
                };
                let (mean, most) = difference(&got, expected);
                assert!(mean <= path.tolerance(), "{case} {path:?}: a mean difference of {mean}");
                let what = case[name.len() + 1..].to_owned();
                let spread = spreads.entry((what, path)).or_default();
                spread.means.push(mean);
                spread.most = spread.most.max(most);
            }
        }
    }
    assert_eq!(spreads.len(), 8, "two crops and two parts on two paths");
    eprintln!("| preparation | decoded | pictures | mean | largest mean | largest |");
    eprintln!("|---|---|---:|---:|---:|---:|");
    for ((what, path), spread) in &spreads {
        eprintln!("| {what} | {} | {}", path.name(), spread.line());
    }
}

#[test]
fn ten_views_are_torchvisions_in_its_order() {
    let golden = Golden::open();
    let (tensors, geometry) = (golden.tensors(), golden.geometry());
    let name = &golden.settings.names[0];
    let file = tensors.tensor(&format!("{name}.jpg")).expect("the picture").data();
    let expected = tensors.tensor(&format!("{name}.ten")).expect("the first has ten views").data();
    let slack = geometry.slack(geometry.resize, geometry.resize);
    let windows: Vec<Window> = Views::Ten.windows(slack).collect();
    let whole = |width, height| geometry.drawing(width, height, |_| Needed::Frame);
    for path in [Path::Whole, Path::Region] {
        let got = levels(path, file, &geometry, whole, &windows).expect("a baseline JPEG");
        let views = got.chunks(geometry.num_values()).zip(expected.chunks(geometry.num_values()));
        for (view, (got, expected)) in views.enumerate() {
            let (mean, _) = difference(got, expected);
            assert!(mean <= path.tolerance(), "view {view} {path:?}: a mean difference of {mean}");
        }
        // Views differ from each other by far more than that.
        let (swapped, _) = difference(
            &got[..geometry.num_values()],
            &expected[geometry.num_values()..][..geometry.num_values()],
        );
        assert!(swapped > 10.0, "{swapped}");
    }
}

#[test]
fn normalised_pixels_are_torchvisions() {
    let golden = Golden::open();
    let (tensors, geometry) = (golden.tensors(), golden.geometry());
    let name = &golden.settings.names[0];
    let file = tensors.tensor(&format!("{name}.jpg")).expect("the picture").data();
    let expected = tensors.tensor(&format!("{name}.normalised")).expect("the first has them");
    let expected: Vec<f32> =
        expected.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let levels = |numbers: [f64; 3]| numbers.map(|x| (255.0 * x) as f32);
    let normalisation =
        Normalisation::new(levels(golden.settings.mean), levels(golden.settings.std));
    let centre = cases(&golden, name).swap_remove(0);
    for path in [Path::Whole, Path::Region] {
        let windows = [centre.window];
        let got = finished(path, file, &geometry, &normalisation, &centre.drawing, &windows);
        let got = got.expect("a baseline JPEG");
        let far = got.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>();
        // A level is a 57th of a deviation.
        let mean = far / got.len() as f64 * 57.0;
        assert!(mean <= path.tolerance(), "{path:?}: a mean difference of {mean} levels");
    }
}
