//! Reading what `alexnet-mgpu pack` wrote: training on it is training on the source, and whatever is
//! wrong with its files is said before anything is read from them.

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use alexnet_mgpu::data::{
    Augment, BadImages, Batch, EvalLoader, Geometry, LightingScale, Loader, Normalisation, Order,
    Output, Pixels, Split, TrainLoader, Views, open, open_both,
};
use common::{PROGRAM, delivery, succeeds};
use jpeg_encoder::{ColorType, Encoder};
use serde_json::Value;
use tempfile::TempDir;

const NUM_IMAGES: usize = 24;

/// An image folder of photographs, real ones if `ALEXNET_TEST_PHOTOGRAPHS` names a tar file of them: three
/// classes for training, of which two are tested.
fn photographs() -> TempDir {
    let root = tempfile::tempdir().expect("a temporary folder");
    let images = if let Some(path) = std::env::var_os("ALEXNET_TEST_PHOTOGRAPHS") {
        unpack(File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    } else {
        eprintln!("ALEXNET_TEST_PHOTOGRAPHS is not set; the test uses pictures of its own");
        (0..NUM_IMAGES as u16).map(|i| picture(260 + 10 * i, 400 - 7 * i)).collect()
    };
    for (i, bytes) in images.iter().enumerate() {
        let split = if i % 8 < 6 { "train" } else { "val" };
        let dir = root.path().join(format!("{split}/class{}", i % 3));
        fs::create_dir_all(&dir).expect("a new folder");
        fs::write(dir.join(format!("{i:02}.jpg")), bytes).expect("a new file");
    }
    root
}

fn unpack(file: File) -> Vec<Vec<u8>> {
    let mut tar = tar::Archive::new(file);
    let entries = tar.entries().expect("a tar").take(NUM_IMAGES);
    let read = |entry: std::io::Result<tar::Entry<'_, File>>| {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry.expect("a member"), &mut bytes).expect("whole");
        bytes
    };
    entries.map(read).collect()
}

/// Waves without edges, which JPEG keeps as it keeps a photograph.
fn picture(width: u16, height: u16) -> Vec<u8> {
    let (w, h) = (usize::from(width), usize::from(height));
    let wave = |phase: f64| (128.0 + 120.0 * phase.sin()) as u8;
    let pixel = |x: usize, y: usize| {
        let (x, y) = (x as f64, y as f64);
        [wave(x / 11.0 + y / 29.0), wave(x / 23.0 - y / 13.0), wave(x * y / 4000.0)]
    };
    let pixels: Vec<u8> = (0..h).flat_map(|y| (0..w).flat_map(move |x| pixel(x, y))).collect();
    let mut bytes = Vec::new();
    let encoded = Encoder::new(&mut bytes, 90).encode(&pixels, width, height, ColorType::Rgb);
    encoded.expect("a valid picture");
    bytes
}

/// Packs `src` into a new folder.
fn pack(src: &Path, args: &[&str]) -> TempDir {
    let dst = tempfile::tempdir().expect("a temporary folder");
    succeeds(Command::new(PROGRAM).arg("pack").args([src, dst.path()]).args(args));
    dst
}

fn drain(loader: Loader) -> Vec<Arc<Batch>> {
    let next = || loader.receivers[0][0].next().expect("good images");
    // A consumer may keep one batch; these are copies.
    let copy = |batch: Arc<Batch>| {
        Arc::new(Batch::standalone(batch.first, batch.images.clone(), batch.labels.clone()))
    };
    let batches = std::iter::from_fn(next).map(copy).collect();
    loader.join();
    batches
}

const NORMALISATION: Normalisation = Normalisation::new([124.0, 117.0, 104.0], [58.0, 57.0, 57.0]);

/// Two epochs of training as the paper does it.
fn training(path: &Path, resize: u32, output: Output) -> Vec<Arc<Batch>> {
    let loader = TrainLoader {
        source: open(path, Split::Train).unwrap_or_else(|error| panic!("{error}")),
        order: Order::Shuffled,
        geometry: Geometry { resize, pad: 0, crop: 227 },
        variation: Augment::Paper.variation(LightingScale::Std),
        normalisation: NORMALISATION,
        seed: 5,
        batch: 6,
        start_step: 0,
        last_step: Some(6),
        max_bad_fraction: 0.0,
    };
    drain(loader.spawn(delivery(6, output)).expect("a good set"))
}

/// The ten views of every test image.
fn testing(path: &Path) -> Vec<Arc<Batch>> {
    let source = open_both(path).unwrap_or_else(|error| panic!("{error}")).1;
    let loader = EvalLoader {
        bad: Arc::new(BadImages::new(source.len(), 0.0)),
        source,
        geometry: Geometry { resize: 256, pad: 0, crop: 227 },
        normalisation: NORMALISATION,
        views: Views::Ten,
        batch: 4,
    };
    drain(loader.spawn(delivery(4, Output::F32)).expect("a good set"))
}

#[track_caller]
fn same(a: &[Arc<Batch>], b: &[Arc<Batch>]) {
    assert!(!a.is_empty() && a.len() == b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.labels, b.labels);
        assert!(a.images == b.images, "pixels differ");
    }
}

#[test]
fn packed_pixels_make_the_batches_of_the_photographs_they_were_made_from() {
    let photographs = photographs();
    let packed = pack(photographs.path(), &["--shard-images", "5"]);
    for output in [Output::U8, Output::Bf16, Output::F32] {
        let expected = training(photographs.path(), 256, output);
        same(&training(packed.path(), 256, output), &expected);
        // As stored is 256 too.
        same(&training(packed.path(), 0, output), &expected);
    }
    same(&testing(packed.path()), &testing(photographs.path()));
    let (train, _) = open_both(packed.path()).expect("packed");
    assert_eq!(train.classes(), ["class0", "class1", "class2"]);
    assert!(train.name(5).ends_with("train-00001-of-00004.safetensors record 0"));
    // Pixels are where the file is mapped: the next record lies behind the first.
    let [first, second] = [0, 1].map(|index| train.frame(index).expect("in memory").pixels);
    assert_eq!(first.as_ptr_range().end, second.as_ptr());
    assert_eq!(first.as_ptr().addr() % 4096, 0, "a record begins on a page");
}

#[test]
fn packed_jpeg_files_make_nearly_the_batches_of_their_source() {
    let photographs = photographs();
    let packed = pack(photographs.path(), &["--format", "jpeg", "--shard-images", "5"]);
    let expected = training(photographs.path(), 256, Output::U8);
    let found = training(packed.path(), 256, Output::U8);
    for (a, b) in expected.iter().zip(&found) {
        assert_eq!(a.labels, b.labels);
        let (Pixels::U8(a), Pixels::U8(b)) = (&a.images, &b.images) else { panic!("not bytes") };
        let sum: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a.abs_diff(b)).powi(2)).sum();
        let rms = (sum / a.len() as f64).sqrt();
        assert!(rms > 0.0 && rms < 8.0, "quality 90 differs by {rms} grey levels");
    }
}

#[test]
fn jpeg_files_of_the_right_size_are_packed_byte_for_byte() {
    let photographs = photographs();
    let once = pack(photographs.path(), &["--format", "jpeg", "--size", "64", "--quality", "75"]);
    let twice = pack(once.path(), &["--format", "jpeg", "--size", "64"]);
    let name = "train-00000-of-00001.tar";
    let [a, b] = [&once, &twice].map(|dir| fs::read(dir.path().join(name)).expect("packed"));
    assert!(a == b);
}

#[test]
fn a_pack_of_another_size_is_resized_like_any_picture() {
    let photographs = photographs();
    let large = pack(photographs.path(), &["--size", "300"]);
    let of_pack = pack(large.path(), &["--size", "256"]);
    same(&training(large.path(), 256, Output::U8), &training(of_pack.path(), 256, Output::U8));
}

/// A small pack and the bytes of its first training shard.
struct Victim {
    dir: TempDir,
    shard: PathBuf,
    bytes: Vec<u8>,
}

impl Victim {
    fn new() -> Self {
        let dir = pack(photographs().path(), &["--size", "16", "--shard-images", "5"]);
        let shard = dir.path().join("train-00000-of-00004.safetensors");
        let bytes = fs::read(&shard).expect("packed");
        Self { dir, shard, bytes }
    }

    /// The error of opening the training split.
    #[track_caller]
    fn error(&self) -> String {
        match open(self.dir.path(), Split::Train) {
            Ok(_) => panic!("it opened"),
            Err(error) => {
                let message = error.to_string();
                assert_eq!(message.lines().count(), 1, "{message}");
                message
            }
        }
    }

    /// The shard with `from` in its header replaced by `to`, which is as long.
    fn lie(&self, from: &str, to: &str) -> Vec<u8> {
        assert_eq!(from.len(), to.len());
        let at = self.bytes.windows(from.len()).position(|bytes| bytes == from.as_bytes());
        let at = at.unwrap_or_else(|| panic!("{from:?} is in the header"));
        let mut bytes = self.bytes.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    }

    fn edit_manifest(&self, edit: impl FnOnce(&mut Value)) {
        let path = self.dir.path().join("manifest.json");
        let mut manifest = serde_json::from_slice(&fs::read(&path).expect("packed")).expect("JSON");
        edit(&mut manifest);
        fs::write(&path, manifest.to_string()).expect("writable");
    }
}

#[test]
fn headers_that_lie_are_refused_with_the_file_and_the_reason() {
    let victim = Victim::new();
    let mut huge = victim.bytes.clone();
    huge[..8].copy_from_slice(&(1u64 << 40).to_le_bytes());
    let mut endless = victim.bytes.clone();
    endless[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut shorter = victim.bytes.clone();
    let length = u64::from_le_bytes(*shorter.first_chunk().expect("it has a header"));
    shorter[..8].copy_from_slice(&(length - 8).to_le_bytes());
    let images = victim.bytes.len() - 5 * 768;
    let mut label = victim.bytes.clone();
    label[images - 20..][..4].copy_from_slice(&3i32.to_le_bytes());
    let mut negative = victim.bytes.clone();
    negative[images - 20..][..4].copy_from_slice(&(-1i32).to_le_bytes());
    for (bytes, expected) in [
        (huge, "claims a header of 1099511627776 bytes"),
        (endless, "claims a header of 18446744073709551615 bytes"),
        (victim.lie("\"U8\"", "\"I8\""), "images are I8"),
        (victim.lie("[5,16,16,3]", "[5,16,48,1]"), "images are U8 [5, 16, 48, 1]"),
        (victim.lie("[5,16,16,3]", "[9,16,16,3]"), "invalid shape, data type, or offset"),
        (victim.lie("[20,3860]", "[10,3850]"), "invalid offset for tensor `images`"),
        (victim.lie("[20,3860]", "[20,3859]"), "invalid shape, data type, or offset"),
        (victim.lie("[0,20]", "[9,29]"), "invalid offset"),
        (shorter, "2 tensors of 3860 bytes where 2 of 3868 must be"),
        (victim.lie("\"labels\"", "\"levels\""), "no tensor labels"),
        (victim.lie("{\"__meta", "[\"__meta"), "damaged header"),
        (label, "record 0 has label 3, but there are classes 0 to 2"),
        (negative, "record 0 has label -1"),
        (victim.bytes[..victim.bytes.len() / 2].to_vec(), "bytes where"),
        (Vec::new(), "has 0 bytes where"),
    ] {
        fs::write(&victim.shard, bytes).expect("writable");
        let message = victim.error();
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
        assert!(message.contains("train-00000-of-00004.safetensors: "), "{message:?}");
    }
    fs::remove_file(&victim.shard).expect("there");
    assert!(victim.error().contains("cannot open"));
    fs::write(&victim.shard, &victim.bytes).expect("writable");
    open(victim.dir.path(), Split::Train).map(drop).expect("whole again");
}

#[test]
fn manifests_that_are_lost_unfinished_or_lie_are_refused() {
    type Edit = fn(&mut Value);
    let cases: [(Edit, &str); 8] = [
        (|m| m["state"] = "unfinished".into(), "not packed to its end"),
        (|m| m["version"] = 2.into(), "version 2"),
        (|m| m["settings"]["size"] = 0.into(), "images of 0 pixels"),
        (|m| m["settings"]["shard_images"] = 0.into(), "0 to a shard"),
        (|m| m["train"]["num_source_images"] = u64::MAX.into(), "shards where"),
        (|m| m["classes"] = Value::Array(Vec::new()), "has 0 classes"),
        (
            |m| m["train"]["shards"]["train-00000-of-00004.safetensors"]["num_images"] = 4.into(),
            "not the 5 of its range",
        ),
        (
            |m| {
                let shards = m["train"]["shards"].as_object_mut().expect("an object");
                let shard = shards.remove("train-00003-of-00004.safetensors").expect("there");
                shards.insert("../../etc/passwd".into(), shard);
            },
            "../../etc/passwd, which is no shard of its",
        ),
    ];
    for (edit, expected) in cases {
        let victim = Victim::new();
        victim.edit_manifest(edit);
        let message = victim.error();
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
    }
    let victim = Victim::new();
    let path = victim.dir.path().join("manifest.json");
    let text = fs::read_to_string(&path).expect("packed");
    fs::write(&path, &text[..text.len() / 2]).expect("writable");
    assert!(victim.error().contains("manifest.json: is damaged"));
    fs::remove_file(&path).expect("there");
    assert!(victim.error().contains("no manifest.json"), "{}", victim.error());
}

#[test]
fn jpeg_shards_that_are_not_what_the_manifest_says_are_refused() {
    let dir = pack(photographs().path(), &["--format", "jpeg", "--size", "16"]);
    let root = dir.path();
    let surplus = root.join("train-more.tar");
    fs::copy(root.join("train-00000-of-00001.tar"), &surplus).expect("packed");
    let error = || open(root, Split::Train).err().expect("not as packed").to_string();
    assert!(error().contains("holds 36 images where 18 must be"), "{}", error());
    fs::remove_file(&surplus).expect("there");
    fs::write(
        root.join("imagenet_class_index.json"),
        r#"{"0":["a","a"],"1":["b","b"],"2":["c","c"]}"#,
    )
    .expect("writable");
    assert!(error().contains("has not the classes"), "{}", error());
}
