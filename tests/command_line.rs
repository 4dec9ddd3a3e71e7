//! The program as its users meet it: what it says and returns when something is wrong, and what is left
//! on disk afterwards. Every case runs the real binary.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use alexnet_mgpu::checkpoint;
use alexnet_mgpu::data::{Decoder, GeneratedSpec, Image, generate};

const PROGRAM: &str = env!("CARGO_BIN_EXE_alexnet-mgpu");

/// A folder with images and room for runs.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let desk = Self { dir };
        let spec = GeneratedSpec { seed: 1, size: 32, num_train: 40, num_test: 10 };
        generate(&desk.path("images"), &spec).expect("a writable folder");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A training run of the small network over the images, two steps unless `args` say otherwise.
    fn train(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .current_dir(self.dir.path())
            .args(["--arch", "alexnet-cifar", "--data", "images", "--set", "data.resize=0"])
            .args(["--set", "data.std=[64,64,64]", "--batch-size", "8", "--device", "cpu"])
            .args(["--set", "train.max_steps=2", "--lr", "0.001", "--name", "run"])
            .args(args);
        command
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.current_dir(self.dir.path()).args(args);
        command
    }

    fn run_dir(&self) -> PathBuf {
        self.path("runs/run")
    }

    fn last_step(&self) -> u64 {
        checkpoint::load(&self.run_dir()).expect("a whole checkpoint").state.step
    }

    /// One training image's path.
    fn image(&self, index: usize) -> PathBuf {
        let mut files = Vec::new();
        for class in fs::read_dir(self.path("images/train")).expect("made above") {
            let class = class.expect("readable").path();
            let images = fs::read_dir(class).expect("a class folder");
            files.extend(images.map(|image| image.expect("readable").path()));
        }
        files.sort();
        files[index].clone()
    }
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn succeeds(command: &mut Command) -> Output {
    let output = run(command);
    assert!(output.status.success(), "{:?}\n{}", output.status, stderr(&output));
    output
}

/// The last line, which says everything about a failure with exit code `code`.
#[track_caller]
fn fails(command: &mut Command, code: i32, parts: &[&str]) -> String {
    let output = run(command);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
    text
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_the_right_spelling() {
    let desk = Desk::new();
    fs::write(desk.path("recipe.toml"), "[train]\nepochs = 3\nbatchsize = 8\n").expect("writable");
    let recipe = ["--config", "recipe.toml"];
    fails(&mut desk.train(&recipe), 2, &["recipe.toml:3", "batchsize", "batch_size"]);
    fails(&mut desk.train(&["--set", "train.momentun=0.8"]), 2, &["train.momentum"]);
    fails(&mut desk.train(&["--set", "nonsense.qqq=1"]), 2, &["nonsense.qqq"]);
    assert!(!desk.run_dir().exists(), "a wrong recipe leaves nothing behind");
}

#[test]
fn data_that_is_not_there_or_no_classification_task_is_refused_by_name() {
    let desk = Desk::new();
    fails(&mut desk.train(&["--data", "nowhere"]), 3, &["nowhere", "expected"]);
    fs::create_dir(desk.path("empty")).expect("writable");
    fails(&mut desk.train(&["--data", "empty"]), 3, &["empty", "train/<class>"]);
    fs::create_dir_all(desk.path("lonely/train/cat")).expect("writable");
    fs::copy(desk.image(0), desk.path("lonely/train/cat/1.jpg")).expect("writable");
    fails(&mut desk.train(&["--data", "lonely"]), 3, &["one class", "cat"]);
    assert!(!desk.run_dir().exists(), "nothing to train on leaves nothing behind");
}

#[test]
fn broken_images_are_named_once_counted_and_replaced_until_there_are_too_many() {
    let desk = Desk::new();
    let (cut, empty) = (desk.image(3), desk.image(17));
    let bytes = fs::read(&cut).expect("an image");
    fs::write(&cut, &bytes[..bytes.len() / 2]).expect("writable");
    fs::write(&empty, []).expect("writable");
    // Three epochs meet each broken image three times.
    let mut tolerant = desk.train(&["--epochs", "3", "--set", "train.max_steps=15"]);
    let text = stderr(&succeeds(tolerant.args(["--set", "data.max_bad_fraction=0.1"])));
    for (path, why) in [(&cut, "truncated"), (&empty, "empty")] {
        let name = path.file_name().expect("a file").to_string_lossy();
        let lines: Vec<_> = text.lines().filter(|line| line.contains(&*name)).collect();
        assert_eq!(lines.len(), 1, "{name} in:\n{text}");
        assert!(lines[0].contains(why), "{}", lines[0]);
    }
    assert!(text.contains("2 of 40 training images"), "{text}");
    let strict = ["--set", "data.max_bad_fraction=0.01", "--set", "train.max_steps=5"];
    fails(&mut desk.train(&strict), 3, &["of 40 images cannot be read", "at most 1"]);
}

#[test]
fn devices_that_do_not_exist_or_do_not_fit_are_refused_with_advice() {
    let desk = Desk::new();
    let too_many = ["--gpus", "99", "--mode", "data-parallel", "--device", "cuda"];
    fails(&mut desk.train(&too_many), 4, &["--device cpu"]);
    fails(&mut desk.train(&["--gpus", "3", "--mode", "split"]), 2, &["even number", "--gpus 2"]);
    fails(&mut desk.train(&["--gpus", "2"]), 2, &["--mode split"]);
    let wider = ["--wire", "fp32", "--precision", "bf16"];
    fails(&mut desk.train(&wider), 2, &["devices.wire", "bf16", "--precision fp32"]);
    let idle = ["--gpus", "12", "--mode", "data-parallel"];
    fails(&mut desk.train(&idle), 2, &["--batch-size 12"]);
}

#[test]
fn a_damaged_or_foreign_checkpoint_is_refused_and_stays_as_it_is() {
    let desk = Desk::new();
    succeeds(&mut desk.train(&[]));
    let foreign = ["--arch", "alexnet-owt", "--resume", "runs/run"];
    fails(&mut desk.train(&foreign), 2, &["alexnet-cifar", "alexnet-owt", "--init"]);
    let model = desk.run_dir().join("checkpoints/last/model.safetensors");
    let bytes = fs::read(&model).expect("saved");
    fs::write(&model, &bytes[..bytes.len() / 2]).expect("writable");
    for command in
        [&mut desk.train(&["--resume", "auto"]), &mut desk.command(&["eval", "runs/run"])]
    {
        fails(command, 1, &["model.safetensors", "truncated"]);
    }
    assert_eq!(fs::read(&model).expect("still there").len(), bytes.len() / 2);
}

#[test]
fn results_that_cannot_be_written_are_refused_before_training() {
    // Not even root can write there.
    let desk = Desk::new();
    fails(&mut desk.train(&["--output-dir", "/proc/runs"]), 1, &["/proc/runs", "--output-dir"]);
}

#[test]
fn a_disk_that_fills_while_saving_leaves_the_previous_checkpoint_good() {
    let desk = Desk::new();
    succeeds(&mut desk.train(&[]));
    assert_eq!(desk.last_step(), 2);
    let more = desk.train(&["--resume", "auto", "--set", "train.max_steps=4"]);
    // Files end at 4 MiB (8192 blocks of 512 bytes), in the middle of the weights.
    let mut full = Command::new("sh");
    full.current_dir(desk.dir.path())
        .args(["-c", "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\"", PROGRAM])
        .args(more.get_args());
    fails(&mut full, 1, &["cannot save", "untouched", "--resume auto"]);
    assert_eq!(desk.last_step(), 2);
    let unfinished = fs::read_dir(desk.run_dir().join("checkpoints")).expect("saved once");
    let names: Vec<_> = unfinished.map(|entry| entry.expect("readable").file_name()).collect();
    assert!(names.iter().all(|n| !n.to_string_lossy().starts_with(".tmp")), "{names:?}");
    succeeds(&mut desk.train(&["--resume", "auto", "--set", "train.max_steps=4"]));
    assert_eq!(desk.last_step(), 4);
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_names_a_layer() {
    let desk = Desk::new();
    for mode in [
        &["--mode", "single"][..],
        &["--mode", "split", "--gpus", "2"],
        &["--mode", "hybrid", "--gpus", "3"],
    ] {
        let wild = ["--lr", "1e30", "--set", "train.max_steps=10"];
        let text = fails(desk.train(&wild).args(mode), 5, &["not finite", "--lr"]);
        assert!(["conv", "fc"].iter().any(|layer| text.contains(layer)), "{text}");
    }
}

/// Waits until the run has measured something.
fn wait_for_steps(child: &mut Child, metrics: &Path) {
    let begun = Instant::now();
    while !fs::read_to_string(metrics).is_ok_and(|text| text.contains("step")) {
        let ended = child.try_wait().expect("a child of ours");
        assert!(ended.is_none(), "the run ended by itself: {ended:?}");
        // Not a measurement: a run that never starts should fail here and not hang.
        assert!(begun.elapsed() < Duration::from_secs(120), "no step in two minutes");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn stopped_by(signal: &str, mode: &[&str]) {
    let desk = Desk::new();
    let long = ["--epochs", "100000", "--set", "train.max_steps=0", "--set", "run.log_steps=1"];
    let rare = ["--set", "train.eval_epochs=1000", "--set", "run.checkpoint_epochs=1000"];
    let mut command = desk.train(&long);
    let mut child =
        command.args(rare).args(mode).stderr(Stdio::null()).spawn().expect("the program starts");
    wait_for_steps(&mut child, &desk.run_dir().join("metrics.jsonl"));
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(sent.expect("kill exists").success());
    let status = child.wait().expect("a child of ours");
    assert_eq!((status.code(), status.signal()), (Some(75), None), "{signal} {mode:?}");
    let step = desk.last_step();
    assert!(step > 0);
    let further = format!("train.max_steps={}", step + 3);
    let resume = ["--resume", "auto", "--epochs", "100000", "--set", &further];
    succeeds(desk.train(&resume).args(rare).args(mode));
    assert_eq!(desk.last_step(), step + 3);
}

#[test]
fn ctrl_c_finishes_the_step_saves_and_leaves() {
    stopped_by("-INT", &["--mode", "single"]);
    stopped_by("-INT", &["--mode", "split", "--gpus", "2"]);
}

#[test]
fn sigterm_saves_too() {
    stopped_by("-TERM", &["--mode", "data-parallel", "--gpus", "2"]);
}

fn accuracy(desk: &Desk, args: &[&str]) -> serde_json::Value {
    let output = succeeds(desk.command(&["eval", "runs/run", "--json"]).args(args));
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
    let mut predict = desk.command(&["predict", "--model", "runs/run", "--json"]);
    let output = succeeds(predict.arg(&image));
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let top = line["top"].as_array().expect("a list");
    let sum: f64 = top.iter().filter_map(|entry| entry["probability"].as_f64()).sum();
    assert!(top.len() == 5 && sum > 0.0 && sum <= 1.0 + 1e-6, "{line}");
    fails(&mut desk.command(&["predict", "--model", "runs/run", "none.jpg"]), 3, &["none.jpg"]);
}

#[test]
fn images_that_cannot_be_read_keep_no_others_from_being_named() {
    let desk = Desk::new();
    succeeds(&mut desk.train(&[]));
    fs::write(desk.path("bad.jpg"), "text").expect("writable");
    let mut predict = desk.command(&["predict", "--model", "runs/run", "bad.jpg"]);
    let output = predict.arg(desk.image(0)).output().expect("it starts");
    assert_eq!(output.status.code(), Some(3));
    let image = desk.image(0).display().to_string();
    assert!(String::from_utf8_lossy(&output.stdout).contains(&image), "the other is named");
    let text = stderr(&output);
    assert!(text.contains("1 of 2 images could not be read"), "{text}");
    assert_eq!(text.matches("not a JPEG or PNG image").count(), 1, "{text}");
}

#[test]
fn a_run_that_has_diverged_in_its_last_step_is_no_success_and_is_not_saved() {
    let desk = Desk::new();
    let diverges = ["--lr", "1e30", "--set", "train.max_steps=1"];
    fails(&mut desk.train(&diverges), 5, &["test images is NaN", "--lr"]);
    assert!(!desk.run_dir().join("checkpoints").exists(), "there is nothing to save");
}

#[test]
fn weights_that_are_not_finite_replace_no_checkpoint() {
    let desk = Desk::new();
    // Of biases the rate is twice as high, and no number of 32 bits: the loss is told before the update.
    let every_step = ["--set", "run.checkpoint_steps=1", "--set", "run.keep_last=1"];
    let mut diverging = desk.train(&every_step);
    diverging.args(["--lr", "3e38", "--set", "train.max_steps=3"]);
    fails(&mut diverging, 5, &["not finite after 1 steps", "not saved"]);
    assert!(!desk.run_dir().join("checkpoints").exists());
}

#[test]
fn an_answer_that_nobody_reads_or_has_room_for_ends_without_a_panic() {
    let desk = Desk::new();
    let dry_run = ["--arch", "alexnet-cifar", "--data", "images", "--dry-run"];
    let mut child = desk.command(&dry_run).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    drop(child.as_mut().expect("it starts").stdout.take());
    let closed = child.expect("it starts").wait_with_output().expect("a child of ours");
    assert_eq!((closed.status.code(), stderr(&closed)), (Some(0), String::new()));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let output = desk.command(&dry_run).stdout(full).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot write to the standard output"), "{output:?}");
}

#[test]
fn what_cannot_be_trained_leaves_no_folder_behind() {
    let desk = Desk::new();
    let refused = |args: &[&str], code, parts: &[&str]| fails(&mut desk.train(args), code, parts);
    refused(&["--set", "data.crop=24"], 2, &["data.crop is 24", "32 pixels"]);
    refused(&["--init", "none.safetensors"], 1, &["none.safetensors"]);
    refused(&["--batch-size", "41"], 3, &["41", "at most 40"]);
    refused(&["--set", "net.classes=5"], 2, &["net.classes is 5"]);
    assert!(!desk.run_dir().exists());
}

#[test]
fn a_run_goes_on_where_its_folder_lies_now() {
    let desk = Desk::new();
    succeeds(&mut desk.train(&[]));
    fs::create_dir(desk.path("kept")).expect("writable");
    fs::rename(desk.run_dir(), desk.path("kept/moved")).expect("writable");
    let resume = |steps: &str| {
        let mut command = desk.command(&["--resume", "kept/moved", "--device", "cpu", "--set"]);
        stderr(&succeeds(command.arg(format!("train.max_steps={steps}"))))
    };
    let text = resume("3");
    assert!(text.contains("resuming after step 2") && text.contains("kept/moved"), "{text}");
    let step = checkpoint::load(&desk.path("kept/moved")).expect("a whole checkpoint").state.step;
    assert_eq!((step, desk.run_dir().exists()), (3, false));
    assert!(resume("3").contains("nothing is left to do: 3 of 3 steps"));
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
    let mut draw = desk.command(&["draw", "--model", "runs/run", "--output", "deep/pictures"]);
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
        fails(desk.command(&["draw", "--model", "runs/run"]).args(args), code, parts);
    };
    refused(&["none.jpg"], 3, &["none.jpg"]);
    refused(&["a/cat.jpg", "b/cat.jpg"], 2, &["another image", "--output"]);
    fs::write(desk.path("taken"), "a file").expect("writable");
    refused(&["--output", "taken"], 1, &["taken/conv1-filters.png", "cannot be written"]);
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

#[test]
fn ranks_without_a_class_of_their_own_train_with_the_others() {
    let desk = Desk::new();
    let more_ranks_than_classes = ["--mode", "hybrid", "--gpus", "11", "--batch-size", "11"];
    succeeds(desk.train(&more_ranks_than_classes).args(["--set", "train.max_steps=1"]));
    assert_eq!(desk.last_step(), 1);
}

#[test]
fn a_run_ends_by_saying_where_everything_lies_and_what_to_try_next() {
    let desk = Desk::new();
    let text = stderr(&succeeds(&mut desk.train(&[])));
    for part in ["test accuracy", "runs/run", "eval", "predict", "verify"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    for file in ["config.toml", "metrics.jsonl", "log.txt", "checkpoints/last", "checkpoints/best"]
    {
        assert!(desk.run_dir().join(file).exists(), "{file}");
    }
}

#[test]
fn a_run_with_a_number_goes_on_in_its_own_folder_however_that_is_written() {
    let desk = Desk::new();
    let first = succeeds(&mut desk.train(&[]));
    assert!(!stderr(&first).contains("--resume"), "it has the name it wanted");
    let text = stderr(&succeeds(&mut desk.train(&[])));
    assert!(text.contains("--resume runs/run-2 will continue it"), "{text}");
    let absolute = desk.path("runs/run-2/checkpoints/last").display().to_string();
    for (path, steps) in [("runs/run-2", 3), ("./runs/../runs/run-2", 4), (&absolute, 5)] {
        let more = format!("train.max_steps={steps}");
        succeeds(&mut desk.command(&["--resume", path, "--set", &more]));
        let reached = checkpoint::load(&desk.path("runs/run-2")).expect("saved").state.step;
        assert_eq!(reached, steps, "{path}");
    }
    assert!(!desk.path("runs/run-3").exists() && !desk.path("runs/run-2-2").exists());
    assert_eq!(desk.last_step(), 2, "the other run is as it was");
}

#[test]
fn a_run_goes_on_without_the_weights_it_began_from() {
    let desk = Desk::new();
    succeeds(&mut desk.train(&[]));
    let weights = desk.path("weights.safetensors");
    fs::copy(desk.run_dir().join("checkpoints/last/model.safetensors"), &weights).expect("saved");
    let begin = ["--name", "tuned", "--init", "weights.safetensors"];
    succeeds(desk.train(&[]).args(begin));
    fs::remove_file(&weights).expect("copied above");
    succeeds(&mut desk.command(&["--resume", "runs/tuned", "--set", "train.max_steps=3"]));
    let reached = checkpoint::load(&desk.path("runs/tuned")).expect("saved").state.step;
    assert_eq!(reached, 3);
}

#[test]
fn steps_in_turns_are_answered_line_by_line_and_a_line_that_fails_leaves_the_next_alone() {
    let step = "--arch alexnet-cifar --batch 4 --device cpu --steps 2";
    let mut serving = Command::new(PROGRAM);
    serving.args(["gpu-check", "steps"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = serving.spawn().expect("built with the tests");
    let mut lines = child.stdin.take().expect("piped");
    for line in [step, &format!("{step} --warmup 1"), "--arch none", &format!("{step} --gpus 2")] {
        writeln!(lines, "{line}").expect("it reads");
    }
    drop(lines);
    let output = child.wait_with_output().expect("it ends with its input");
    let text = String::from_utf8(output.stdout).expect("text");
    let answers: Vec<_> = text.lines().collect();
    assert_eq!((answers.len(), output.status.code()), (4, Some(0)), "{text}");
    for rate in &answers[..2] {
        let rate = rate.strip_suffix(" img/s").and_then(|rate| rate.parse::<f64>().ok());
        assert!(rate.is_some_and(|rate| rate > 0.0), "{text}");
    }
    assert!(answers[2].starts_with("failed: ") && answers[2].contains("alexnet-owt"), "{text}");
    assert!(answers[3].starts_with("failed: ") && answers[3].contains("one device"), "{text}");
}
