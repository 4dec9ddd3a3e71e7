//! The generated set: the same every time, whole or not there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::folder;
use crate::data::{DataError, GeneratedSpec, Split, generate, open};
use crate::folder_lock::FolderLock;

const SPEC: GeneratedSpec = GeneratedSpec { seed: 1, size: 16, num_train: 25, num_test: 10 };

/// Every file below `dir` with its bytes.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let name = path.display().to_string();
            found.insert(name, fs::read(path).expect("a readable file"));
        }
    }
    found
}

#[test]
fn a_generated_set_opens_as_an_image_folder_with_ten_balanced_classes() {
    let parent = folder(&[]);
    let dir = parent.path().join("deep/set");
    generate(&dir, &SPEC).expect("a writable place");
    for (split, len) in [(Split::Train, 25), (Split::Test, 10)] {
        let source = open(&dir, split).expect("a good folder");
        assert_eq!((source.len(), source.classes().len()), (len, 10));
        assert!(source.classes().contains(&"grating-horizontal".to_string()));
        let mut counts = [0usize; 10];
        (0..len).for_each(|i| counts[source.label(i)] += 1);
        assert!(counts.iter().all(|count: &usize| count.abs_diff(len / 10) <= 1), "{counts:?}");
    }
    let siblings = fs::read_dir(dir.parent().expect("it has one")).expect("a folder").count();
    assert_eq!(siblings, 1, "no scratch folder stays behind");
}

#[test]
fn what_a_killed_process_had_begun_is_removed_and_what_a_living_one_makes_is_not() {
    let parent = folder(&[]);
    let begun = |name: &str, age: u64| {
        let path = parent.path().join(name);
        fs::create_dir(&path).expect("writable");
        let at = SystemTime::now() - Duration::from_secs(age);
        File::open(&path).and_then(|dir| dir.set_modified(at)).expect("ours");
        path
    };
    let [killed, living, young] =
        [(".generating-a", 120), (".generating-b", 120), (".generating-c", 0)]
            .map(|(name, age)| begun(name, age));
    let lock = FolderLock::take(&living, "", "").expect("nobody has it");
    generate(&parent.path().join("set"), &SPEC).expect("a writable place");
    assert_eq!([&killed, &living, &young].map(|path| path.exists()), [false, true, true]);
    drop(lock);
}

#[test]
fn the_same_spec_gives_the_same_bytes_and_another_seed_gives_others() {
    let parent = folder(&[]);
    let make = |name: &str, spec: &GeneratedSpec| {
        let dir = parent.path().join(name);
        generate(&dir, spec).expect("a writable place");
        files(&dir.join("train")).into_values().collect::<Vec<_>>()
    };
    let first = make("a", &SPEC);
    assert_eq!(first, make("b", &SPEC));
    assert_ne!(first, make("c", &GeneratedSpec { seed: 2, ..SPEC }));
    assert!(first.windows(2).all(|pair| pair[0] != pair[1]), "no picture twice");
}

#[test]
fn an_existing_set_is_reused_and_anything_else_is_left_alone() {
    let parent = folder(&[("taken/thesis.txt", b"years of work")]);
    let dir = parent.path().join("set");
    generate(&dir, &SPEC).expect("a writable place");
    let before = files(&dir);
    let class = dir.join("train/rings/000000.jpg");
    fs::write(&class, b"touched").expect("a writable file");
    generate(&dir, &SPEC).expect("it is there");
    assert_eq!(fs::read(&class).expect("it is there"), b"touched");
    assert_eq!(files(&dir).len(), before.len());

    let other = generate(&dir, &GeneratedSpec { seed: 2, ..SPEC });
    assert!(matches!(other, Err(DataError::GeneratedTaken { .. })));
    let taken = generate(&parent.path().join("taken"), &SPEC);
    assert!(taken.expect_err("it is taken").to_string().contains("remove it or choose another"));
    assert!(parent.path().join("taken/thesis.txt").exists());
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_with_its_path() {
    let parent = folder(&[("file", b"not a folder")]);
    let dir = parent.path().join("file/set");
    let message = generate(&dir, &SPEC).expect_err("no folder can be there").to_string();
    assert!(message.contains("file"), "{message}");
    let tiny = generate(&parent.path().join("x"), &GeneratedSpec { num_test: 3, ..SPEC });
    assert!(tiny.expect_err("too few").to_string().contains("at least 10"));
}
