//! `alexnet-mgpu pack` as its users meet it: the same files however often it was interrupted, and
//! nothing of anybody else's touched. Every case runs the real binary.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use alexnet_mgpu::data::Split;
use alexnet_mgpu::data::packed::Manifest;
use alexnet_mgpu::random::{Key, Purpose};
use common::{Desk, PROGRAM, ends, fails, stderr};

impl Desk {
    fn new(num_train: usize, num_test: usize) -> Self {
        Self::with_images(40, num_train, num_test)
    }

    /// `pack images DST`, with `--size 32 --shard-images 20` unless `args` say otherwise.
    fn pack(&self, dst: &str, args: &[&str]) -> Command {
        let mut command = self.command(&["pack", "images", dst]);
        if !args.contains(&"--size") {
            command.args(["--size", "32"]);
        }
        if !args.contains(&"--shard-images") {
            command.args(["--shard-images", "20"]);
        }
        command.args(args);
        command
    }

    fn verify(&self, dst: &str) -> Command {
        self.command(&["pack", "--verify", dst])
    }

    fn manifest(&self, dst: &str) -> Manifest {
        let manifest = Manifest::read(&self.path(dst)).expect("readable");
        manifest.expect("there is one")
    }
}

/// The bytes of every file of a folder, hidden ones included.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("readable"));
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().expect("a plain name");
        (name, fs::read(entry.path()).expect("readable"))
    };
    entries.map(file).collect()
}

#[track_caller]
fn same_files(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(*bytes == b[name], "{name} differs");
    }
}

#[test]
fn the_number_of_workers_changes_no_byte() {
    let desk = Desk::new(130, 30);
    for format in ["u8", "jpeg"] {
        let dst = |workers: &str| format!("{format}-{workers}");
        for workers in ["1", "2", "8"] {
            ends(&mut desk.pack(&dst(workers), &["--format", format, "-j", workers]), 0);
        }
        same_files(&desk.path(&dst("1")), &desk.path(&dst("2")));
        same_files(&desk.path(&dst("1")), &desk.path(&dst("8")));
        let manifest = desk.manifest(&dst("1"));
        let num = |split| manifest.part(split).num_images().expect("few");
        assert_eq!([Split::Train, Split::Test].map(num), [130, 30]);
        assert_eq!(manifest.train.shards.len(), 7);
        ends(&mut desk.verify(&dst("8")), 0);
        // Statistics fitted to the pack lie in its folder.
        ends(Command::new(PROGRAM).arg("stats").arg(desk.path(&dst("8"))), 0);
        ends(&mut desk.verify(&dst("8")), 0);
    }
}

/// Waits until `dir` lists `num` shards, then `extra` longer, unless the child ends before.
fn wait_for_shards(child: &mut Child, dir: &Path, num: usize, extra: Duration) {
    let begun = Instant::now();
    let listed = || {
        let manifest = Manifest::read(dir).ok().flatten();
        manifest.map_or(0, |manifest| manifest.train.shards.len() + manifest.val.shards.len())
    };
    while listed() < num && child.try_wait().expect("a child of ours").is_none() {
        // Not a measurement: a pack that never moves should fail here and not hang.
        assert!(begun.elapsed() < Duration::from_secs(120), "no shard in two minutes");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(extra);
}

#[test]
fn ten_kills_at_any_point_leave_the_same_files_as_none() {
    let desk = Desk::new(3000, 300);
    let args = ["--size", "48", "--shard-images", "100", "-j", "2"];
    ends(&mut desk.pack("whole", &args), 0);
    let key = Key::new(7, Purpose::Generate);
    let (mut num_kills, mut attempt) = (0, 0);
    let mut kept = BTreeMap::new();
    while num_kills < 10 {
        let dir = desk.path("killed");
        let draw = |index, below| key.with(attempt).below(index, below);
        let more = draw(0, 4) as usize;
        let extra = Duration::from_micros(draw(1, 30_000));
        let mut child =
            desk.pack("killed", &args).stderr(Stdio::null()).spawn().expect("it starts");
        wait_for_shards(&mut child, &dir, kept.len() + more, extra);
        num_kills += usize::from(child.try_wait().expect("a child of ours").is_none());
        child.kill().expect("a child of ours"); // SIGKILL
        child.wait().expect("a child of ours");
        attempt += 1;
        assert!(attempt < 100, "packing ends too fast to be killed");
        // What was finished before is not made again.
        let inode = |name: &String| fs::metadata(dir.join(name)).expect("it is there").ino();
        assert!(kept.iter().all(|(name, ino)| inode(name) == *ino));
        if let Ok(Some(manifest)) = Manifest::read(&dir) {
            let shards = manifest.train.shards.keys().chain(manifest.val.shards.keys());
            kept = shards.map(|name| (name.clone(), inode(name))).collect();
            if kept.len() == 33 {
                ends(&mut desk.pack("killed", &args), 0);
                same_files(&desk.path("whole"), &dir);
                fs::remove_dir_all(&dir).expect("ours");
                kept.clear();
            }
        }
    }
    ends(&mut desk.pack("killed", &args), 0);
    same_files(&desk.path("whole"), &desk.path("killed"));
    ends(&mut desk.verify("killed"), 0);
}

#[test]
fn ctrl_c_keeps_finished_shards_and_the_same_command_goes_on() {
    let desk = Desk::new(2000, 100);
    let args = ["--size", "200", "-j", "1", "--format", "jpeg"];
    ends(&mut desk.pack("whole", &args), 0);
    let mut command = desk.pack("stopped", &args);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    wait_for_shards(&mut child, &desk.path("stopped"), 2, Duration::ZERO);
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill exists").success());
    let output = child.wait_with_output().expect("a child of ours");
    assert_eq!(output.status.code(), Some(75), "{}", stderr(&output));
    assert!(stderr(&output).contains("the same command goes on"), "{}", stderr(&output));
    let names = files(&desk.path("stopped"));
    assert!(names.keys().all(|name| !name.starts_with('.')), "{:?}", names.keys());
    fails(&mut desk.verify("stopped"), 3, &["stopped", "not packed to its end"]);
    let going_on = ends(&mut desk.pack("stopped", &args), 0);
    assert!(going_on.contains("going on"), "{going_on}");
    same_files(&desk.path("whole"), &desk.path("stopped"));
}

#[test]
fn verifying_names_the_first_damaged_file_and_packing_again_repairs_it() {
    let desk = Desk::new(60, 20);
    let mut pack = desk.pack("dst", &[]);
    ends(&mut pack, 0);
    ends(&mut desk.pack("whole", &[]), 0);
    let (second, third) = (
        desk.path("dst/train-00001-of-00003.safetensors"),
        desk.path("dst/train-00002-of-00003.safetensors"),
    );
    let whole = fs::read(&second).expect("packed");
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&second, &flipped).expect("writable");
    fs::remove_file(&third).expect("packed");
    fails(&mut desk.verify("dst"), 3, &["train-00001-of-00003", "BLAKE3", "same pack again"]);
    fs::write(&second, &whole[..middle]).expect("writable");
    fails(&mut desk.verify("dst"), 3, &["train-00001-of-00003", "bytes where"]);
    fs::write(&second, &whole).expect("writable");
    fails(&mut desk.verify("dst"), 3, &["train-00002-of-00003", "is missing"]);
    fs::write(&second, &flipped).expect("writable");
    let text = ends(&mut pack, 0);
    assert_eq!(text.matches("made again").count(), 2, "{text}");
    same_files(&desk.path("whole"), &desk.path("dst"));
    fs::write(desk.path("dst/notes.txt"), "mine").expect("writable");
    fails(&mut desk.verify("dst"), 3, &["notes.txt", "remove it"]);
    fails(&mut desk.verify("images"), 2, &["no packed folder"]);
}

#[test]
fn folders_of_something_else_are_refused_and_left_as_they_are() {
    let desk = Desk::new(60, 20);
    ends(&mut desk.pack("dst", &[]), 0);
    let before = files(&desk.path("dst"));
    let elsewhere = Desk::new(70, 20);
    let src = elsewhere.path("images");
    let src = src.to_str().expect("plain");
    let mut other_source = desk.command(&["pack", src, "dst"]);
    other_source.args(["--size", "32", "--shard-images", "20"]);
    for (command, parts) in [
        (&mut desk.pack("dst", &["--size", "24"]), &["--size 32", "choose another"][..]),
        (&mut desk.pack("dst", &["--format", "jpeg"]), &["--format u8"]),
        (&mut other_source, &["other images"]),
        (&mut desk.pack("images", &[]), &["something else", "empty folder"]),
        (&mut desk.pack("new", &["--quality", "80"]), &["--format jpeg"]),
    ] {
        fails(command, 2, parts);
    }
    let image = &desk.images()[0];
    let bytes = fs::read(image).expect("an image");
    fs::copy(&desk.images()[1], image).expect("writable");
    fails(&mut desk.pack("dst", &[]), 2, &["other images of these names", "training image 0"]);
    fs::write(image, bytes).expect("writable");
    ends(&mut desk.pack("dst", &[]), 0);
    assert_eq!(files(&desk.path("dst")), before);
    assert!(!desk.path("new").exists());
    let lock = File::open(desk.path("dst")).expect("a folder");
    lock.try_lock().expect("nobody packs");
    fails(&mut desk.pack("dst", &[]), 1, &["another process", "dst"]);
}

#[test]
fn unreadable_images_are_left_out_up_to_a_fraction_and_packed_once_they_are_mended() {
    let desk = Desk::new(60, 20);
    ends(&mut desk.pack("good", &[]), 0);
    let images = desk.images();
    let whole: Vec<_> = [7, 45].map(|i| fs::read(&images[i]).expect("an image")).into();
    fs::write(&images[7], &whole[0][..whole[0].len() / 2]).expect("writable");
    fs::write(&images[45], []).expect("writable");
    let strict = &["60 images cannot be read", "at most 1", "truncated"];
    fails(&mut desk.pack("dst", &[]), 3, strict);
    let tolerant = ["--max-bad-fraction", "0.05"];
    let text = ends(&mut desk.pack("dst", &tolerant), 0);
    assert!(text.contains("58 training and 20 test images, 2 left out"), "{text}");
    ends(&mut desk.verify("dst"), 0);
    let bad = desk.manifest("dst").train.bad_images();
    assert_eq!(bad.iter().map(|image| image.index).collect::<Vec<_>>(), [7, 45]);
    let name = images[7].file_name().expect("a file").to_str().expect("plain");
    assert!(bad[0].name.ends_with(name) && bad[0].reason.contains("truncated"), "{:?}", bad[0]);
    assert!(bad[1].reason.contains("empty"), "{:?}", bad[1]);
    fs::write(&images[7], &whole[0]).expect("writable");
    fs::write(&images[45], &whole[1]).expect("writable");
    ends(&mut desk.pack("dst", &tolerant), 0);
    same_files(&desk.path("good"), &desk.path("dst"));
}

#[test]
fn a_full_disk_is_an_error_with_advice_and_no_loss() {
    let desk = Desk::new(200, 20);
    let args = ["--size", "64", "--shard-images", "80"];
    ends(&mut desk.pack("whole", &args), 0);
    // The first shard does not fit.
    let mut full = desk.on_full_disk(&desk.pack("dst", &args), 512 << 10);
    fails(&mut full, 1, &["cannot write", "free some space", "same command"]);
    ends(&mut desk.pack("dst", &args), 0);
    same_files(&desk.path("whole"), &desk.path("dst"));
}
