//! What is wrong, and what the program says and leaves behind then.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use alexnet_mgpu::replace::UNFINISHED;

use super::desk::{Desk, PROGRAM, fails, stderr, succeeds};

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
    let test = desk.path("images/test/rings/000000.jpg");
    fs::write(&test, []).expect("writable");
    let bytes = fs::read(&cut).expect("an image");
    fs::write(&cut, &bytes[..bytes.len() / 2]).expect("writable");
    fs::write(&empty, []).expect("writable");
    // Three epochs and their evaluations meet each broken image three times.
    let mut tolerant = desk.train(&["--epochs", "3", "--set", "train.max_steps=15"]);
    let text = stderr(&succeeds(tolerant.args(["--set", "data.max_bad_fraction=0.1"])));
    for (path, why) in [(&cut, "truncated"), (&empty, "empty")] {
        let name = path.file_name().expect("a file").to_string_lossy();
        let lines: Vec<_> = text.lines().filter(|line| line.contains(&*name)).collect();
        assert_eq!(lines.len(), 1, "{name} in:\n{text}");
        assert!(lines[0].contains(why), "{}", lines[0]);
    }
    assert_eq!(text.matches("test/rings/000000.jpg").count(), 1, "{text}");
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
        fails(command, 3, &["model.safetensors", "truncated", "no other checkpoint"]);
    }
    assert_eq!(fs::read(&model).expect("still there").len(), bytes.len() / 2);

    succeeds(&mut desk.train(&["--name", "run-2", "--set", "run.checkpoint_steps=1"]));
    let last = desk.path("runs/run-2/checkpoints/last/model.safetensors");
    fs::write(last, b"").expect("writable");
    let mut again = desk.command(&["eval", "runs/run-2"]);
    fails(&mut again, 3, &["truncated", "use another one, such as", "checkpoints/step-00000001"]);
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
    // In the middle of the weights.
    let mut full = desk.on_full_disk(&more, 4 << 20);
    fails(&mut full, 1, &["cannot save", "untouched", "--resume auto"]);
    assert_eq!(desk.last_step(), 2);
    let unfinished = fs::read_dir(desk.run_dir().join("checkpoints")).expect("saved once");
    let names: Vec<_> = unfinished.map(|entry| entry.expect("readable").file_name()).collect();
    assert!(names.iter().all(|n| !n.to_string_lossy().starts_with(UNFINISHED)), "{names:?}");
    succeeds(&mut desk.train(&["--resume", "auto", "--set", "train.max_steps=4"]));
    assert_eq!(desk.last_step(), 4);
}

#[test]
fn a_batch_beyond_all_memory_is_an_error_and_that_of_an_evaluation_is_cut_to_its_images() {
    let desk = Desk::new();
    let huge = "1000000000000";
    let step = ["bench", "step", "--arch", "alexnet-cifar", "--device", "cpu", "--batch", huge];
    fails(&mut desk.command(&step), 4, &["no memory", "lower the batch size"]);
    succeeds(&mut desk.train(&[]));
    succeeds(&mut desk.command(&["eval", "runs/run", "-b", huge]));
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
    refused(&["--init", "none.safetensors"], 3, &["none.safetensors"]);
    refused(&["--batch-size", "41"], 2, &["41", "at most 40"]);
    refused(&["--set", "net.classes=5"], 2, &["net.classes is 5"]);
    let padded = ["--set", "data.resize=24", "--set", "data.pad=4"];
    let told = refused(&padded, 2, &["data.resize is 24", "raise data.resize to 32"]);
    assert!(
        !told.contains("data.pad") && !told.contains("or pad"),
        "more padding helps nothing: {told}"
    );
    refused(&["--epochs", "4611686018427387904"], 2, &["train.epochs"]);
    assert!(!desk.run_dir().exists());
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
