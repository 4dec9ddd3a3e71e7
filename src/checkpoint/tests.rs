//! What is saved is whole, read back bit for bit, and refused where it is not what was saved.

use super::*;
use tch::Device;

fn checkpoint(step: u64) -> Checkpoint {
    let x = Tensor::randn([3, 4], (Kind::Float, Device::Cpu));
    let tensors = |name: &str| Tensors::from([(name.to_owned(), x.copy())]);
    let state = State::new(step, "alexnet".into(), vec!["a".into(), "b".into()], "".into());
    let (weights, optimizer) = (tensors("w"), tensors("w.velocity"));
    Checkpoint { state, weights, optimizer, stats: None }
}

#[test]
fn what_is_saved_is_read_back_bit_for_bit() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let saved = checkpoint(7);
    save(dir.path(), &saved, 3, Mark::Regular).expect("writable");
    let read = load(dir.path()).expect("whole");
    assert_eq!(read.weights, saved.weights);
    assert_eq!(read.optimizer, saved.optimizer);
    assert_eq!((read.state.step, read.state.classes), (7, saved.state.classes));
}

#[test]
fn the_last_ones_and_the_best_stay() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for step in 1..=5 {
        let mark = if step == 2 { Mark::Best } else { Mark::Regular };
        save(dir.path(), &checkpoint(step), 2, mark).expect("writable");
    }
    let kept = |step: u64| checkpoints(dir.path()).join(format!("step-{step:08}")).exists();
    assert_eq!([1, 2, 3, 4, 5].map(kept), [false, true, false, true, true]);
    assert_eq!(load(dir.path()).expect("whole").state.step, 5);
    assert_eq!(load(&checkpoints(dir.path()).join("best")).expect("whole").state.step, 2);
}

#[test]
fn a_step_that_is_made_again_replaces_the_former_one() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let [first, second] = [checkpoint(1), checkpoint(1)];
    save(dir.path(), &first, 3, Mark::Regular).expect("writable");
    let folder = save(dir.path(), &second, 3, Mark::Regular).expect("writable");
    assert_eq!(load(&folder).expect("whole").weights, second.weights);
    assert_eq!(fs::read_dir(checkpoints(dir.path())).expect("there").count(), 2);
}

#[test]
fn a_truncated_file_is_named_wherever_it_was_cut() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = save(dir.path(), &checkpoint(1), 3, Mark::Regular).expect("writable");
    for file in [MODEL, OPTIMIZER, STATE] {
        let whole = fs::read(folder.join(file)).expect("there");
        for len in [0, 1, 9, whole.len() / 2, whole.len() - 1] {
            fs::write(folder.join(file), &whole[..len]).expect("writable");
            let error = format!("{:#}", load(dir.path()).err().expect("it is cut"));
            assert!(error.contains(file), "{error}");
        }
        fs::write(folder.join(file), &whole).expect("writable");
    }
    load(dir.path()).expect("whole again");
}

#[test]
fn one_changed_byte_is_found_and_the_file_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = save(dir.path(), &checkpoint(1), 3, Mark::Regular).expect("writable");
    for file in [MODEL, OPTIMIZER] {
        let whole = fs::read(folder.join(file)).expect("there");
        let mut damaged = whole.clone();
        *damaged.last_mut().expect("not empty") ^= 1;
        fs::write(folder.join(file), damaged).expect("writable");
        let error = load(dir.path()).err().expect("it is damaged").to_string();
        assert!(error.contains(file) && error.contains("not what was saved"), "{error}");
        // A model is used without its optimizer's state.
        assert_eq!(load_model(dir.path()).is_err(), file == MODEL);
        fs::write(folder.join(file), &whole).expect("writable");
    }
    fs::remove_file(folder.join(MODEL)).expect("there");
    let error = load(dir.path()).err().expect("it is gone");
    assert!(error.to_string().starts_with("cannot read"), "{error:#}");
}

#[test]
fn what_is_saved_may_be_read_by_those_who_may_read_any_other_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = save(dir.path(), &checkpoint(1), 3, Mark::Regular).expect("writable");
    let mode = |file| fs::metadata(folder.join(file)).expect("there").permissions().mode();
    assert_eq!([mode(MODEL), mode(OPTIMIZER)], [mode(STATE); 2]);
}

#[test]
fn the_folder_of_a_run_is_found_from_any_of_its_checkpoints() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let step = save(dir.path(), &checkpoint(1), 3, Mark::Regular).expect("writable");
    let run = dir.path().canonicalize().expect("there");
    for path in [dir.path(), &step, &checkpoints(dir.path()).join("last")] {
        assert_eq!(run_folder(path).as_ref(), Some(&run), "{}", path.display());
    }
    let alone = dir.path().join("elsewhere");
    fs::rename(&step, &alone).expect("writable");
    assert_eq!(run_folder(&alone), None);
}

#[test]
fn a_save_removes_what_a_killed_one_left_behind() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let all = checkpoints(dir.path());
    let killed = all.join(format!("{UNFINISHED}abc"));
    fs::create_dir_all(&killed).expect("writable");
    fs::write(killed.join(MODEL), "a part").expect("writable");
    std::os::unix::fs::symlink("gone", all.join(format!("{UNFINISHED}last"))).expect("a link");
    save(dir.path(), &checkpoint(1), 3, Mark::Regular).expect("writable");
    let names = fs::read_dir(&all).expect("there").map(|entry| entry.expect("read").file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["last", "step-00000001"]);
}

#[test]
fn a_failed_save_leaves_the_previous_checkpoint_as_it_was() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    save(dir.path(), &checkpoint(1), 3, Mark::Best).expect("writable");
    let mut broken = checkpoint(2);
    // A kind that cannot be written fails half-way, after the weights are on disk.
    let words = Tensor::from_slice(&[1i64]);
    broken.optimizer.insert("w.velocity".into(), words);
    let error = save(dir.path(), &broken, 3, Mark::Best).expect_err("not a kind that is saved");
    assert!(format!("{error:#}").contains("untouched"), "{error:#}");
    assert_eq!(load(dir.path()).expect("whole").state.step, 1);
    assert_eq!(fs::read_dir(checkpoints(dir.path())).expect("there").count(), 3);
}
