//! A trained network in use: `eval`, `predict` and `draw`.

use std::fs;
use std::path::{Path, PathBuf};

use alexnet_mgpu::data::{Decoder, Image};

use super::desk::{Desk, fails, stderr, succeeds};

fn accuracy(desk: &Desk, args: &[&str]) -> serde_json::Value {
    let output =
        succeeds(desk.command(&["eval", "runs/run", "--device", "cpu", "--json"]).args(args));
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

#[test]
fn a_trained_model_is_evaluated_the_same_on_any_number_of_devices_and_names_images() {
    let desk = Desk::new();
    succeeds(&mut desk.train(&["--set", "data.pad=4", "--set", "train.max_steps=5"]));
    let alone = accuracy(&desk, &[]);
    assert_eq!(alone["num_images"], 10);
    // Shares of 3, 3, 2 and 2 images, and a second batch that leaves most replicas without any.
    let shared = accuracy(&desk, &["--gpus", "4", "--batch-size", "9"]);
    for key in ["top1", "top5", "num_images"] {
        assert_eq!(alone[key], shared[key], "{key}");
    }
    let loss = |value: &serde_json::Value| value["loss"].as_f64().expect("a number");
    assert!((loss(&alone) - loss(&shared)).abs() < 1e-5);
    assert_eq!(accuracy(&desk, &["--views", "10"])["views"], 10);

    let image = desk.image(0);
    let mut predict =
        desk.command(&["predict", "--device", "cpu", "--model", "runs/run", "--json"]);
    let output = succeeds(predict.arg(&image));
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let top = line["top"].as_array().expect("a list");
    let sum: f64 = top.iter().filter_map(|entry| entry["probability"].as_f64()).sum();
    assert!(top.len() == 5 && sum > 0.0 && sum <= 1.0 + 1e-6, "{line}");
    fails(
        &mut desk.command(&["predict", "--device", "cpu", "--model", "runs/run", "none.jpg"]),
        3,
        &["none.jpg"],
    );
}

#[test]
fn a_model_is_not_evaluated_on_images_of_other_classes() {
    let desk = Desk::new();
    succeeds(&mut desk.train(&[]));
    let class = desk.image(0).parent().and_then(Path::file_name).expect("a class").to_owned();
    for split in ["train", "val", "test"].map(|split| desk.path("images").join(split)) {
        if split.join(&class).is_dir() {
            fs::rename(split.join(&class), split.join("zebra")).expect("writable");
        }
    }
    let mut eval = desk.command(&["eval", "runs/run", "--device", "cpu"]);
    fails(&mut eval, 2, &["class 1 is", class.to_str().expect("plain"), "--data"]);
}

#[test]
fn images_that_cannot_be_read_keep_no_others_from_being_named() {
    let desk = Desk::new();
    succeeds(&mut desk.train(&[]));
    fs::write(desk.path("bad.jpg"), "text").expect("writable");
    let mut predict =
        desk.command(&["predict", "--device", "cpu", "--model", "runs/run", "bad.jpg"]);
    let output = predict.arg(desk.image(0)).output().expect("it starts");
    assert_eq!(output.status.code(), Some(3));
    let image = desk.image(0).display().to_string();
    assert!(String::from_utf8_lossy(&output.stdout).contains(&image), "the other is named");
    let text = stderr(&output);
    assert!(text.contains("1 of 2 images could not be read"), "{text}");
    assert_eq!(text.matches("not a JPEG or PNG image").count(), 1, "{text}");
}

fn size_of_picture(path: &Path) -> (u32, u32) {
    let picture = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut decoded = Image::default();
    Decoder::default().decode(&picture, &mut decoded).expect("a whole PNG");
    (decoded.width(), decoded.height())
}

#[test]
fn a_model_is_drawn_with_what_it_sees_in_an_image() {
    let desk = Desk::new();
    succeeds(&mut desk.train(&[]));
    let image = desk.image(0);
    let mut draw = desk.command(&[
        "draw",
        "--device",
        "cpu",
        "--model",
        "runs/run",
        "--output",
        "deep/pictures",
    ]);
    let output = succeeds(draw.arg(&image));
    let text = String::from_utf8(output.stdout).expect("names");
    let paths: Vec<_> = text.lines().map(|line| desk.path(line)).collect();
    let stem = |path: &PathBuf| path.file_stem().expect("a name").display().to_string();
    let names: Vec<_> = paths.iter().map(stem).collect();
    let layers = ["conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2", "norm2", "conv3"];
    let layers = layers.into_iter().chain(["relu3", "conv4", "relu4", "conv5", "relu5", "pool5"]);
    let numbered = layers.enumerate().map(|(i, layer)| format!("{:02}-{layer}", i + 1));
    let first = ["conv1-filters", "00-input"].map(str::to_owned);
    assert_eq!(names, first.into_iter().chain(numbered).collect::<Vec<_>>());
    let sizes: Vec<_> = paths.iter().map(|path| size_of_picture(path)).collect();
    assert!(sizes.iter().all(|&(width, height)| width > 30 && height > 30), "{sizes:?}");
    assert_eq!(sizes[1], (32, 32), "what the network is shown");

    let refused = |args: &[&str], code, parts: &[&str]| {
        fails(
            desk.command(&["draw", "--device", "cpu", "--model", "runs/run"]).args(args),
            code,
            parts,
        );
    };
    refused(&["none.jpg"], 3, &["none.jpg"]);
    let good = image.display().to_string();
    refused(&["--output", "others", "none.jpg", &good], 3, &["1 of 2 images could not be read"]);
    let name = image.file_name().expect("a name");
    assert!(desk.path("others").join(name).join("15-pool5.png").exists(), "the other is drawn");
    refused(&["a/cat.jpg", "b/cat.jpg"], 2, &["another image", "--output"]);
    fs::write(desk.path("taken"), "a file").expect("writable");
    refused(&["--output", "taken"], 2, &["taken", "it is a file", "--output"]);
    fs::copy(&image, desk.path("cat.jpg")).expect("writable");
    refused(&["--output", ".", "cat.jpg"], 2, &["./cat.jpg", "it is a file", "--output"]);
    assert!(!desk.path("conv1-filters.png").exists(), "it is refused before anything is drawn");
    refused(
        &["--output", "/proc/drawn"],
        1,
        &["/proc/drawn/conv1-filters.png", "cannot be written"],
    );
}

/// Rewrites the recipe in the last checkpoint as if NCCL had been insisted on, which needs GPUs.
fn pretend_to_be_trained_over_nccl(desk: &Desk) {
    let path = desk.run_dir().join("checkpoints/last/state.json");
    let state = fs::read_to_string(&path).expect("saved");
    let changed = state.replace(r#"backend = \"auto\""#, r#"backend = \"nccl\""#);
    assert_ne!(changed, state, "the recipe names the backend");
    fs::write(&path, changed).expect("writable");
}

#[test]
fn a_model_is_used_on_what_is_there_and_not_on_what_it_was_trained_on() {
    let desk = Desk::new();
    succeeds(&mut desk.train(&[]));
    pretend_to_be_trained_over_nccl(&desk);
    assert_eq!(accuracy(&desk, &["--device", "cpu", "--gpus", "2"])["num_images"], 10);
    let cpu = ["predict", "--device", "cpu", "--model", "runs/run"];
    succeeds(desk.command(&cpu).arg(desk.image(0)));
}

#[test]
fn slices_count_every_test_image_once_whatever_the_last_batch_leaves_them() {
    let desk = Desk::new();
    // Shares of 3, 2, 2 and 2 images, and a second batch of one image for the first rank.
    let slices = ["--mode", "hybrid", "--gpus", "4", "--batch-size", "9"];
    succeeds(desk.train(&["--set", "train.max_steps=3"]).args(slices));
    let text = fs::read_to_string(desk.run_dir().join("metrics.jsonl")).expect("written");
    let last = text.lines().last().expect("a record");
    let during: serde_json::Value = serde_json::from_str(last).expect("JSON");
    let after = accuracy(&desk, &[]);
    for key in ["top1", "top5", "num_images"] {
        assert_eq!(during[key], after[key], "{key}");
    }
    let loss = |value: &serde_json::Value| value["loss"].as_f64().expect("a number");
    assert!((loss(&during) - loss(&after)).abs() < 1e-5, "{during} {after}");
}
