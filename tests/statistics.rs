//! Fitted statistics from the command that fits them to a model that no longer needs them. Every case
//! runs the real binary.

mod common;

use std::fs;
use std::path::Path;

use alexnet_mgpu::checkpoint;
use alexnet_mgpu::data::Stats;
use common::{Desk, stderr, succeeds};

impl Desk {
    fn new() -> Self {
        Self::with_images(40, 40, 10)
    }

    /// Standard output of a command that succeeds.
    #[track_caller]
    fn output(&self, args: &[&str]) -> String {
        String::from_utf8(succeeds(&mut self.command(args)).stdout).expect("text")
    }

    /// Standard error of a command that fails.
    #[track_caller]
    fn error(&self, args: &[&str]) -> String {
        let output = self.command(args).output().expect("the program starts");
        assert!(!output.status.success(), "{args:?} succeeded");
        stderr(&output)
    }

    /// The flags of a training run with fitted statistics and the mean image.
    fn training<'a>(&self, more: &[&'a str]) -> Vec<&'a str> {
        let flags = [
            ["--arch", "alexnet-cifar"],
            ["--data", "images"],
            ["--set", "data.resize=32"],
            ["--set", "data.std=[64,64,64]"],
            ["--set", "data.stats=fitted"],
            ["--set", "data.mean=image"],
            ["--batch-size", "8"],
            ["--device", "cpu"],
            ["--lr", "0.001"],
            ["--name", "run"],
        ];
        [flags.as_flattened(), more].concat()
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn statistics_lie_with_the_data_and_do_not_depend_on_the_threads() {
    let desk = Desk::new();
    let table = desk.output(&["stats", "images", "--resize", "32"]);
    assert!(table.contains("40 images, 40960 pixels"), "{table}");
    for part in ["mean (0 to 255)", "principal components", "eigenvalue"] {
        assert!(table.contains(part), "{table}");
    }
    let file = desk.path("images").join(Stats::FILE);
    let first = bytes(&file);
    let json = desk.output(&["stats", "images", "--resize", "32", "-j", "3", "--json"]);
    assert_eq!(bytes(&file), first);
    let json: serde_json::Value = serde_json::from_str(&json).expect("one line of JSON");
    let stats = Stats::read(&file).expect("just written");
    assert_eq!(json["num_images"], 40);
    for c in 0..3 {
        assert_eq!(json["mean"][c].as_f64(), Some(stats.colours.mean[c]));
        let deviation = stats.colours.component_std[c];
        assert_eq!(json["component_std"][c].as_f64(), Some(deviation));
        let eigenvalue = json["eigenvalues01"][c].as_f64().expect("a number");
        assert!((eigenvalue * 255.0 * 255.0 - deviation * deviation).abs() < 1e-6);
    }
    desk.output(&["stats", "images", "--limit", "10", "--output", "few.safetensors"]);
    assert_eq!(Stats::read(&desk.path("few.safetensors")).expect("as asked").num_images, 10);
}

#[test]
fn a_place_that_cannot_be_written_or_is_no_folder_is_named_before_any_work() {
    let desk = Desk::new();
    // An image that is looked at is named in a warning.
    let image = desk.path("images/train/rings/000000.jpg");
    fs::write(&image, "no image").expect("made above");
    let tolerant = ["stats", "images", "--max-bad-fraction", "0.5", "--output", "s"];
    let seen = stderr(&succeeds(&mut desk.command(&tolerant)));
    assert!(seen.contains("000000.jpg"), "{seen}");
    let error = desk.error(&["stats", "images", "--output", "/proc/stats.safetensors"]);
    assert!(error.contains("/proc/stats.safetensors") && error.contains("--output"), "{error}");
    let error = desk.error(&["stats", "images", "--output", "missing/stats.safetensors"]);
    assert!(error.contains("missing/stats.safetensors"), "{error}");
    assert!(!error.contains("000000.jpg"), "no image was looked at: {error}");
    fs::write(desk.path("train.tar"), "").expect("writable");
    let error = desk.error(&["stats", "train.tar"]);
    assert!(error.contains("train.tar is no folder") && error.contains("--output"), "{error}");
    let error = desk.error(&["stats", "nothing"]);
    assert!(error.contains("nothing: no such folder"), "{error}");
}

#[test]
fn statistics_of_a_pattern_lie_beside_its_shards_and_training_finds_them_there() {
    let desk = Desk::new();
    let pack = ["pack", "images", "my set", "--format", "jpeg", "--size", "32"];
    desk.output(&[&pack[..], &["--shard-images", "20"]].concat());
    let pattern = "my set/train-{00000..00001}-of-00002.tar";
    let training = desk.training(&["--data", pattern, "--set", "train.max_steps=1"]);
    let error = desk.error(&training);
    let command = format!("`alexnet-mgpu stats '{pattern}' --resize 32`");
    assert!(error.contains(&command), "{error}");
    desk.output(&["stats", pattern, "--resize", "32"]);
    assert!(desk.path("my set").join(Stats::FILE).is_file());
    desk.output(&training);
}

#[test]
fn a_model_with_a_mean_image_needs_neither_the_statistics_nor_the_data_it_was_trained_on() {
    let desk = Desk::new();
    let training = |max_steps| desk.training(&["--resume", "auto", "--set", max_steps]);
    let error = desk.error(&training("train.max_steps=2"));
    assert!(error.contains("`alexnet-mgpu stats images --resize 32`"), "{error}");
    desk.output(&["stats", "images", "--resize", "32"]);
    desk.output(&training("train.max_steps=2"));

    let file = desk.path("images").join(Stats::FILE);
    let stats = Stats::read(&file).expect("written above");
    let checkpoint = checkpoint::load(&desk.path("runs/run")).expect("whole");
    assert_eq!(checkpoint.stats.as_deref(), Some(&stats));
    assert!(checkpoint.state.config.contains("components = [["), "{}", checkpoint.state.config);

    let eval = ["eval", "runs/run", "--device", "cpu", "--json"];
    let before = desk.output(&eval);
    fs::remove_file(&file).expect("it was there");
    assert_eq!(desk.output(&eval), before);
    let with_views = desk.output(&["eval", "runs/run", "--device", "cpu", "--views", "10"]);
    assert!(with_views.contains("10 view(s)"), "{with_views}");

    // It goes on with the image it began with.
    desk.output(&training("train.max_steps=4"));
    let checkpoint = checkpoint::load(&desk.path("runs/run")).expect("whole");
    assert_eq!((checkpoint.state.step, checkpoint.stats.as_deref()), (4, Some(&stats)));

    let image = fs::read_dir(desk.path("images/train")).expect("made above").next();
    let class = image.expect("a class").expect("readable").path();
    let image = fs::read_dir(class).expect("a folder").next().expect("an image");
    fs::copy(image.expect("readable").path(), desk.path("one.jpg")).expect("writable");
    fs::remove_dir_all(desk.path("images")).expect("it was there");
    let json = ["predict", "--model", "runs/run", "--device", "cpu", "--json", "one.jpg"];
    let answer = desk.output(&json);
    assert!(answer.contains("\"probability\":"), "{answer}");
}
