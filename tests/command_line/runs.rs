//! How runs end, and how they go on.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use alexnet_mgpu::checkpoint;

use super::desk::{Desk, fails, stderr, succeeds};

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
    let recipe = || fs::read_to_string(desk.path("kept/moved/config.toml")).expect("written");
    let before = recipe();
    let text = resume("1");
    assert!(text.contains("nothing is left to do: 3 of 1 steps"), "{text}");
    assert!(text.contains("kept/moved: config.toml"), "{text}");
    assert_eq!(recipe(), before, "what made no step is not the recipe");
}

#[test]
fn a_run_named_after_its_mode_goes_on_in_its_folder_in_another_mode() {
    let desk = Desk::new();
    let small = ["--arch", "alexnet-cifar", "--data", "images", "--set", "data.resize=0"];
    let mut begin = desk.command(&["--mode", "split", "--gpus", "2", "--set", "train.max_steps=1"]);
    succeeds(begin.args(small).args(["--device", "cpu", "--batch-size", "8", "--lr", "1e-5"]));
    let resume = |args: &[&str]| {
        let mut command = desk.command(&["--resume", "runs/alexnet-cifar-split", "--gpus", "1"]);
        succeeds(command.args(["--mode", "single", "--set", "train.max_steps=2"]).args(args));
    };
    resume(&[]);
    let reached = |name| checkpoint::load(&desk.path("runs").join(name)).expect("saved").state.step;
    assert_eq!(reached("alexnet-cifar-split"), 2);
    assert!(!desk.path("runs/alexnet-cifar-single").exists());
    // Who names a folder gets it.
    resume(&["--name", "other", "--set", "train.max_steps=3"]);
    assert_eq!((reached("alexnet-cifar-split"), reached("other")), (2, 3));
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
