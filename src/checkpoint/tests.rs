//! What is saved is whole, read back bit for bit, and refused where it is not what was saved.

use super::*;
use crate::exit::exit_of;
use tch::{Device, Kind, Tensor};

fn checkpoint(step: u64) -> Checkpoint {
    let x = Tensor::randn([3, 4], (Kind::Float, Device::Cpu));
    let tensors = |name: &str| Tensors::from([(name.to_owned(), x.copy())]);
    let state = State::new(step, "alexnet".into(), vec!["a".into(), "b".into()], "".into());
    let (weights, optimizer) = (tensors("w"), tensors("w.velocity"));
    Checkpoint { state, weights, optimizer, stats: None }
}

/// Saves the checkpoint of `step` behind the one of step `previous`; its folder.
fn save_after(previous: u64, dir: &Path, step: u64, last: usize, mark: Mark) -> PathBuf {
    super::save(dir, &checkpoint(step), Keep { last, previous }, mark).expect("writable")
}

fn save(dir: &Path, checkpoint: &Checkpoint, last: usize, mark: Mark) -> Result<PathBuf> {
    let previous = checkpoint.state.step.saturating_sub(1);
    super::save(dir, checkpoint, Keep { last, previous }, mark)
}

/// The names of what is in the folder of checkpoints.
fn names_in(dir: &Path) -> Vec<String> {
    let mut names = names(&checkpoints(dir));
    names.sort();
    names
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
    save(dir.path(), &first, 3, Mark::Best).expect("writable");
    let folder = save(dir.path(), &second, 3, Mark::Best).expect("writable");
    assert_eq!(load(&folder).expect("whole").weights, second.weights);
    for path in [dir.path(), &checkpoints(dir.path()).join("best")] {
        assert_eq!(load(path).expect("whole").weights, second.weights);
    }
    assert_eq!(names_in(dir.path()), ["best", "last", "step-00000001-2"]);
}

#[test]
fn a_step_that_is_made_again_leaves_the_former_one_where_it_is_until_the_links_have_moved() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let [first, second] = [checkpoint(1), checkpoint(1)];
    let former = save(dir.path(), &first, 3, Mark::Regular).expect("writable");
    // `last` cannot move onto a folder: the save ends there, as a kill would end it.
    fs::remove_file(checkpoints(dir.path()).join("last")).expect("a link");
    fs::create_dir_all(checkpoints(dir.path()).join("last/taken")).expect("writable");
    save(dir.path(), &second, 3, Mark::Regular).expect_err("the link has no place");
    assert_eq!(load(&former).expect("whole").weights, first.weights);
}

#[test]
fn what_was_just_saved_stays_although_there_are_checkpoints_of_later_steps() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (step, mark) in
        [(1, Mark::Best), (3, Mark::Regular), (4, Mark::Regular), (5, Mark::Regular)]
    {
        save(dir.path(), &checkpoint(step), 3, mark).expect("writable");
    }
    // The run goes on from step 1.
    let saved = save_after(1, dir.path(), 2, 3, Mark::Regular);
    assert!(saved.is_dir());
    assert_eq!(load(dir.path()).expect("last leads to it").state.step, 2);
    assert_eq!(names_in(dir.path()), ["best", "last", "step-00000001", "step-00000002"]);
}

#[test]
fn the_best_one_of_steps_that_are_made_again_goes_when_there_is_another() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    save_after(0, dir.path(), 1, 3, Mark::Regular);
    save_after(1, dir.path(), 3, 3, Mark::Best);
    assert!(has_later(dir.path(), 1) && !has_later(dir.path(), 3));
    save_after(1, dir.path(), 2, 3, Mark::Regular);
    assert_eq!(best_step(dir.path()), Some(3));
    save_after(2, dir.path(), 3, 3, Mark::Regular);
    let both =
        ["best", "last", "step-00000001", "step-00000002", "step-00000003", "step-00000003-2"];
    assert_eq!(names_in(dir.path()), both);
    save_after(3, dir.path(), 4, 3, Mark::Best);
    let kept = ["best", "last", "step-00000002", "step-00000003-2", "step-00000004"];
    assert_eq!(names_in(dir.path()), kept);
}

#[test]
fn what_cannot_be_removed_ends_no_run_whose_checkpoint_is_safe() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // Files where folders are expected: not even root can remove them as such.
    for step in [1, 2] {
        let path = checkpoints(dir.path()).join(format!("step-{step:08}"));
        fs::create_dir_all(checkpoints(dir.path())).expect("writable");
        fs::write(path, "").expect("writable");
    }
    save_after(2, dir.path(), 3, 1, Mark::Regular);
    assert_eq!(load(dir.path()).expect("whole").state.step, 3);
}

#[test]
fn a_folder_of_another_name_is_nobodys_to_remove() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let copy = checkpoints(dir.path()).join("step-00000001-before-tuning");
    fs::create_dir_all(&copy).expect("writable");
    save_after(1, dir.path(), 2, 1, Mark::Regular);
    assert!(copy.exists());
}

#[test]
fn a_checkpoint_that_was_found_stays_the_same_while_the_run_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    save_after(0, dir.path(), 1, 3, Mark::Regular);
    let found = resolve(dir.path()).expect("saved");
    let model = load_model(dir.path()).expect("whole");
    save_after(1, dir.path(), 2, 3, Mark::Regular);
    assert_eq!(load(&found).expect("whole").state.step, 1);
    assert_eq!(load(&model.dir).expect("whole").state.step, 1);
    assert_eq!(load(dir.path()).expect("whole").state.step, 2);
}

#[test]
fn links_are_those_that_lead_to_a_checkpoint() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    assert_eq!(links(dir.path()), [""; 0]);
    let folder = save_after(0, dir.path(), 1, 3, Mark::Best);
    assert_eq!((links(dir.path()), best_step(dir.path())), (vec!["last", "best"], Some(1)));
    save_after(1, dir.path(), 2, 3, Mark::Regular);
    fs::remove_dir_all(folder).expect("there");
    assert_eq!((links(dir.path()), best_step(dir.path())), (vec!["last"], None));
}

#[test]
fn the_first_class_that_differs_is_named() {
    let classes = |names: &str| names.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let check = |a, b| check_classes(&classes(a), &classes(b), "name its own data");
    check("cat dog", "cat dog").expect("the same");
    for (a, b, parts) in [
        ("cat dog owl", "cat doe eel", ["(3)", "(3)", "class 2 is \"dog\" there and \"doe\" here"]),
        ("cat dog", "cat", ["(2)", "(1)", "class 2 is \"dog\" there and none here"]),
        ("cat", "cat dog", ["(1)", "(2)", "class 2 is none there and \"dog\" here"]),
    ] {
        let error = check(a, b).expect_err("they differ");
        assert_eq!(exit_of(&error), Exit::Usage);
        let text = error.to_string();
        for part in parts.into_iter().chain(["name its own data"]) {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }
}

#[test]
fn a_state_from_before_it_named_steps_an_epoch_is_read() {
    let mut value = serde_json::to_value(checkpoint(1).state).expect("plain");
    value.as_object_mut().expect("an object").remove("steps_per_epoch");
    let state: State = serde_json::from_value(value).expect("readable");
    assert_eq!((state.step, state.steps_per_epoch), (1, None));
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
    assert_eq!(names_in(dir.path()), ["last", "step-00000001"]);
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
