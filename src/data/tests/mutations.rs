//! Valid files with bytes changed at many places: every reader ends in a value or a one-line error.

use std::sync::Arc;

use super::{jpeg, tar_of};
use crate::data::hostile;
use crate::data::mean_image::MeanImage;
use crate::data::moments::Moments;
use crate::data::packed::{
    BadImage, Manifest, Notes, Origin, RecordsContent, Settings, Shard, State,
};
use crate::data::{Split, Stats};
use crate::random::{Key, Purpose};

/// Reads `valid` cut to many lengths, and with one to eight bytes changed in `rounds` ways.
fn mutate(name: &str, read: impl Fn(&[u8]) -> Result<(), String>, valid: &[u8], rounds: u64) {
    read(valid).unwrap_or_else(|problem| panic!("{name} is valid: {problem}"));
    let check = |bytes: &[u8]| match read(bytes) {
        Ok(()) => 0,
        Err(problem) => {
            assert_eq!(problem.lines().count(), 1, "{name}: {problem:?}");
            assert!(problem.len() < 1000, "{name}: {problem}");
            1
        }
    };
    let step = (valid.len() / 500).max(1);
    let mut num_errors: u64 = (0..valid.len()).step_by(step).map(|len| check(&valid[..len])).sum();
    assert!(num_errors > 0, "{name}: some cut is an error");
    let key = Key::new(11, Purpose::Generate).with(valid.len() as u64);
    for round in 0..rounds {
        let mut bytes = valid.to_vec();
        let draw = |index: u64, below: usize| key.with(round).below(index, below as u64) as usize;
        for change in 0..1 + round % 8 {
            let at = draw(3 * change, bytes.len());
            let interesting = [0, 1, 0x7f, 0x80, 0xff, b'.', b'7', b' '];
            bytes[at] = match draw(3 * change + 1, 3) {
                0 => interesting[draw(3 * change + 2, interesting.len())],
                1 => bytes[at] ^ 1 << draw(3 * change + 2, 8),
                _ => draw(3 * change + 2, 256) as u8,
            };
        }
        num_errors += check(&bytes);
    }
    assert!(num_errors > rounds / 100, "{name}: mutations reach the checks");
}

/// Makes the checksums of a changed tar right again, so that what lies behind them is reached.
fn mend_checksums(tar: &[u8]) -> Vec<u8> {
    let mut tar = tar.to_vec();
    for block in tar.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        let mut header = tar::Header::from_byte_slice(block).clone();
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
    }
    tar
}

#[test]
fn tars_and_shards() {
    let long = format!("{}.jpg", "long/".repeat(40));
    let tar = tar_of(&[(&long, &[1; 600]), ("b.jpg", b"x"), ("b.cls", b"7"), ("c.json", b"{}")]);
    mutate("tar", hostile::tar, &tar, 3000);
    mutate("tar behind its checksums", |bytes| hostile::tar(&mend_checksums(bytes)), &tar, 3000);
    let mut pax = tar::Builder::new(Vec::new());
    pax.append_pax_extensions([("path", &b"a/b.jpg"[..]), ("size", b"4")]).expect("in memory");
    let pax = [pax.into_inner().expect("in memory")[..1024].to_vec(), tar_of(&[("x", b"1234")])];
    let pax = pax.concat();
    mutate("pax", |bytes| hostile::tar(&mend_checksums(bytes)), &pax, 3000);
    let shard = tar_of(&[("a.jpg", &[1; 90]), ("a.cls", b"12"), ("b.png", b"x"), ("b.cls", b"7")]);
    mutate("shard", |bytes| hostile::shard(&mend_checksums(bytes)), &shard, 3000);
}

#[test]
fn pickles_and_cifar_files() {
    for pickle in super::pickles::ALL {
        mutate("pickle", hostile::pickle, pickle, 3000);
    }
    let binary = super::cifar_files::binary(2, &[]);
    mutate("CIFAR-10", hostile::cifar, &binary, 300);
    let binary = super::cifar_files::binary(2, &[3]);
    mutate("CIFAR-100", hostile::cifar100, &binary, 300);
    let pickle = super::cifar_files::pickle(2, "labels");
    mutate("CIFAR pickle", hostile::pickle_of_cifar, &pickle, 300);
}

#[test]
fn the_table_of_the_devkit() {
    mutate("meta.mat", hostile::matlab, &super::imagenet_tars::meta_mat(), 3000);
}

#[test]
fn lists_of_class_names_and_of_validation_labels() {
    let json = br#"{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}"#;
    mutate("class names as JSON", hostile::class_names, json, 3000);
    mutate("class names as lines", hostile::class_names, b"n1 cat\nn2 dog\n", 3000);
    let table = b"ImageId,PredictionString\nILSVRC2012_val_00000003,n01440764 85 1 499 272\n";
    mutate("Kaggle's labels", hostile::validation, table, 3000);
    mutate("the devkit's text", hostile::validation, b"n02119789 1 kit_fox\nn02100735 2 x\n", 3000);
}

#[test]
fn images() {
    mutate("JPEG", hostile::image, &jpeg(40, 30, 1), 1000);
    let mut png = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_fn(24, 16, |x, y| image::Rgb([x as u8, y as u8, 9]));
    picture.write_to(&mut png, image::ImageFormat::Png).expect("a valid picture");
    mutate("PNG", hostile::image, &png.into_inner(), 1000);
}

#[test]
fn packed_shards() {
    let content = RecordsContent { num_images: 2, size: 4 };
    let notes = Notes::from([("format".into(), "pt".into())]);
    let mut shard = content.front(&notes, &[1, 0], 256).expect("a short header");
    shard.resize(256 + 2 * 48, 7);
    mutate("packed", hostile::packed, &shard, 5000);
}

#[test]
fn manifests() {
    let settings = Settings { size: 8, shard_images: 3, ..Settings::default() };
    let mut manifest = Manifest::new(settings.clone(), Origin::default());
    manifest.classes = ["a", "b"].map(String::from).to_vec();
    manifest.class_names = manifest.classes.clone();
    manifest.state = State::Complete;
    for split in [Split::Train, Split::Test] {
        let part = manifest.part_mut(split);
        part.num_source_images = 5;
        for (index, num_images) in [3, 1].into_iter().enumerate() {
            let name = part.shard_name(split, &settings, index);
            let bad = vec![BadImage { index: 4, name: "x".into(), reason: "y".into() }; index];
            part.shards.insert(name, Shard { num_images, bad, ..Shard::default() });
        }
    }
    let text = serde_json::to_vec(&manifest).expect("JSON");
    mutate("manifest", hostile::manifest, &text, 5000);
}

#[test]
fn files_of_statistics() {
    let (width, height) = (3, 2);
    let moments = Moments::of(&[7; 18]);
    let stats = Stats {
        num_images: 1,
        resize: 0,
        moments,
        colours: moments.statistics().expect("there are pixels"),
        mean_image: Some(Arc::new(MeanImage::new(width, height, vec![7.0; 18]))),
    };
    mutate("statistics", hostile::stats, &stats.to_bytes().expect("a file"), 5000);
}

#[test]
fn patterns_of_paths() {
    mutate("pattern", hostile::pattern, b"a/{train-{000..012},val-{0..3}}.tar", 3000);
}
