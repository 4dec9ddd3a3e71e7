//! The folder of one run: its recipe, its measurements and its log.
//!
//! ```text
//! runs/NAME/config.toml                the resolved recipe
//! runs/NAME/config-until-STEP.toml     the recipe before a run resumed at STEP with another one
//! runs/NAME/metrics.jsonl              one line per measurement
//! runs/NAME/log.txt                    the log
//! ```
//!
//! No result is ever overwritten: a new run beside an old one of its name gets a name of its own.
//! What a recipe or a measurement says is not known here, except that a measurement has a `step`.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::folder_lock::FolderLock;
use crate::replace::replace;
use crate::shell;

const CONFIG: &str = "config.toml";
/// What the names of kept recipes begin with, before the step.
const KEPT: &str = "config-until-";
const METRICS: &str = "metrics.jsonl";
const LOG: &str = "log.txt";

/// A run's folder, made, writable, and this process's alone.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: FolderLock,
}

impl RunFolder {
    /// Makes the folder of a new run and writes the recipe of a run there. If `wanted` holds anything
    /// already, the run gets the first free one of `wanted-2`, `wanted-3`, …, and a line of the log says so.
    ///
    /// # Errors
    /// If the folder or a file in it cannot be made.
    pub fn create(wanted: &Path, config: impl Fn(&Path) -> String) -> Result<Self> {
        let mut number = 1;
        let mut path = wanted.to_path_buf();
        while claim(&path)? == Claim::Taken {
            number += 1;
            path = numbered(wanted, number);
        }
        if number > 1 {
            tracing::warn!("{}", where_it_goes(wanted, &path));
        }
        let config = config(&path);
        Self::own(path)?.with_config(&config)
    }

    /// Continues the run in `path` after its first `step` steps: measurements of later steps, which
    /// will be made again, are removed, and a recipe that has changed is kept beside the new one.
    /// Also right with `step` 0 for a run that ended before its first checkpoint, and for one not
    /// begun.
    ///
    /// # Errors
    /// If the folder or a file in it cannot be read or written, or another process is training in it.
    pub fn resume(path: &Path, config: &str, step: u64) -> Result<Self> {
        make_folder(path)?;
        let folder = Self::own(path.to_path_buf())?;
        keep_changed_config(path, config, step)?;
        let folder = folder.with_config(config)?;
        drop_later_configs(path, step)?;
        let metrics = folder.path.join(METRICS);
        drop_later_lines(&metrics, step)
            .with_context(|| format!("cannot remove later steps from {}", metrics.display()))?;
        Ok(folder)
    }

    fn own(path: PathBuf) -> Result<Self> {
        let advice = "wait for its end, or choose another folder with --name";
        let lock = FolderLock::take(&path, "training in", advice)?;
        lock.warn_without_effect(&path, "training in");
        Ok(Self { path, _lock: lock })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log's file; it may not exist yet.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// The measurements' file; it may not exist yet.
    #[must_use]
    pub fn metrics_path(&self) -> PathBuf {
        self.path.join(METRICS)
    }

    fn with_config(self, config: &str) -> Result<Self> {
        replace(&self.path.join(CONFIG), |file| file.write_all(config.as_bytes()))
            .with_context(|| unusable(&self.path, "write"))?;
        Ok(self)
    }
}

/// Opens a file to write at its end, making it if needed.
///
/// # Errors
/// If the system refuses; the message names the file.
pub fn open_append(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| unusable(path, "write"))
}

/// What the log says of a run that has not got the folder it wanted.
fn where_it_goes(wanted: &Path, path: &Path) -> String {
    format!(
        "{} holds another run; this one goes to {}, and --resume {} will continue it (--resume auto \
         continues the other, --name names this one)",
        wanted.display(),
        path.display(),
        shell::word(path)
    )
}

/// `wanted-2`, `wanted-3`, …
fn numbered(wanted: &Path, number: u64) -> PathBuf {
    let mut name = wanted.file_name().map_or_else(OsString::new, OsString::from);
    name.push(format!("-{number}"));
    wanted.with_file_name(name)
}

/// Whose a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// This run's.
    Ours,
    /// Another's.
    Taken,
}

/// Takes `path` for this run unless it is taken. Making the recipe's file decides between two runs that
/// start at once.
fn claim(path: &Path) -> Result<Claim> {
    if path.is_file() {
        return Ok(Claim::Taken);
    }
    make_folder(path)?;
    let mut entries = fs::read_dir(path).with_context(|| unusable(path, "read"))?;
    if entries.next().is_some() {
        return Ok(Claim::Taken);
    }
    match File::create_new(path.join(CONFIG)) {
        Ok(_) => Ok(Claim::Ours),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Claim::Taken),
        Err(error) => Err(error).with_context(|| unusable(path, "write")),
    }
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| unusable(path, "make"))
}

fn unusable(path: &Path, action: &str) -> String {
    format!(
        "cannot {action} {}, where this run's results go; check its permissions and free space, or \
         choose another folder with --output-dir",
        path.display()
    )
}

/// Saves the recipe of the steps up to `step` under another name if `config` differs. They were made by the
/// first recipe kept for as many steps or more, else by the last one.
fn keep_changed_config(folder: &Path, config: &str, step: u64) -> Result<()> {
    let later = kept_configs(folder)?.into_iter().find(|(until, _)| *until >= step);
    let made_by = later.map_or_else(|| folder.join(CONFIG), |(_, path)| path);
    let text = match fs::read(&made_by) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| unusable(&made_by, "read")),
    };
    let kept = folder.join(format!("{KEPT}{step}.toml"));
    if step == 0 || text == config.as_bytes() || made_by == kept {
        return Ok(());
    }
    replace(&kept, |file| file.write_all(&text)).with_context(|| unusable(&kept, "write"))?;
    tracing::info!("the recipe has changed; the one so far is kept as {}", kept.display());
    Ok(())
}

/// Removes the recipes of steps after `step`, which will be made again. By now the recipe of the new ones, and
/// of those before, is on disk.
fn drop_later_configs(folder: &Path, step: u64) -> Result<()> {
    for (_, path) in kept_configs(folder)?.into_iter().filter(|(until, _)| *until > step) {
        fs::remove_file(&path).with_context(|| unusable(&path, "remove"))?;
    }
    Ok(())
}

/// The recipes kept, each with the last step it made, in the order of these.
fn kept_configs(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let kept = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let until = name.strip_prefix(KEPT)?.strip_suffix(".toml")?.parse().ok()?;
        Some((until, entry.path()))
    };
    let entries = entries.with_context(|| unusable(folder, "read"))?;
    let mut kept: Vec<_> = entries.into_iter().filter_map(kept).collect();
    kept.sort();
    Ok(kept)
}

/// Rewrites a file of measurements without the lines beyond `step` and without a torn line.
fn drop_later_lines(path: &Path, step: u64) -> io::Result<()> {
    let old = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    replace(path, |new| {
        for line in old.split(b'\n') {
            let mut line = line?;
            if stays(&line, step) {
                line.push(b'\n');
                new.write_all(&line)?;
            }
        }
        Ok(())
    })
}

/// Whether a line is a whole measurement of the first `step` steps.
fn stays(line: &[u8], step: u64) -> bool {
    let value: Value = serde_json::from_slice(line).unwrap_or(Value::Null);
    value.get("step").and_then(Value::as_u64).is_some_and(|at| at <= step)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn temporary() -> TempDir {
        TempDir::new().expect("a temporary folder")
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("readable").file_name();
        let mut names: Vec<_> =
            entries.map(|entry| name(entry).into_string().expect("plain names")).collect();
        names.sort();
        names
    }

    #[test]
    fn a_second_run_of_the_same_name_leaves_the_first_as_it_was() {
        let dir = temporary();
        let wanted = dir.path().join("runs/net");
        let paths: Vec<_> = ["a = 1\n", "a = 2\n", "a = 3\n"]
            .map(|config| RunFolder::create(&wanted, |_| config.into()).expect("writable").path)
            .into();
        let runs = dir.path().join("runs");
        assert_eq!(paths, [runs.join("net"), runs.join("net-2"), runs.join("net-3")]);
        assert_eq!(text(&wanted.join(CONFIG)), "a = 1\n");
        assert_eq!(text(&runs.join("net-3").join(CONFIG)), "a = 3\n");
    }

    #[test]
    fn an_empty_folder_is_free_and_a_file_or_another_content_is_not() {
        let dir = temporary();
        let [empty, file, other] = ["empty", "file", "other"].map(|name| dir.path().join(name));
        fs::create_dir(&empty).expect("free");
        fs::write(&file, "").expect("writable");
        fs::create_dir(&other).expect("free");
        fs::write(other.join("notes"), "").expect("writable");
        let made = |wanted| RunFolder::create(wanted, |_| "".into()).expect("writable").path;
        assert_eq!(made(&empty), empty);
        assert_eq!(made(&file), dir.path().join("file-2"));
        assert_eq!(made(&other), dir.path().join("other-2"));
    }

    #[test]
    fn runs_started_at_once_get_folders_of_their_own() {
        let dir = temporary();
        let wanted = dir.path().join("net");
        let mut paths: Vec<_> = std::thread::scope(|scope| {
            let create = || RunFolder::create(&wanted, |_| "".into()).expect("writable").path;
            let start = |_| scope.spawn(create);
            let runs: Vec<_> = (0..8).map(start).collect();
            runs.into_iter().map(|run| run.join().expect("no panic")).collect()
        });
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), 8);
    }

    #[test]
    fn no_two_processes_train_in_one_folder() {
        let dir = temporary();
        let first = RunFolder::resume(dir.path(), "a = 1\n", 0).expect("free");
        let error = RunFolder::resume(dir.path(), "a = 2\n", 0).expect_err("taken");
        assert!(error.to_string().contains("another process is training in it"), "{error}");
        assert_eq!(text(&dir.path().join(CONFIG)), "a = 1\n");
        drop(first);
        RunFolder::resume(dir.path(), "a = 2\n", 0).expect("free again");
    }

    const LINES: [&str; 4] = [
        r#"{"kind":"step","step":10,"loss":0.1}"#,
        r#"{"kind":"eval","step":10,"loss":0.30000000000000004}"#,
        r#"{"kind":"step","step":20,"loss":0.2}"#,
        r#"{"kind":"step","ste"#,
    ];

    #[test]
    fn resuming_drops_later_and_torn_lines_and_keeps_the_others_byte_for_byte() {
        let dir = temporary();
        for (step, kept) in [(0, 0), (10, 2), (15, 2), (20, 3), (99, 3)] {
            let metrics = dir.path().join(METRICS);
            fs::write(&metrics, LINES.join("\n")).expect("writable");
            RunFolder::resume(dir.path(), "", step).expect("writable");
            let expected: String = LINES[..kept].iter().map(|line| format!("{line}\n")).collect();
            assert_eq!(text(&metrics), expected, "resumed at {step}");
        }
        assert_eq!(names(dir.path()), [CONFIG, METRICS]);
    }

    #[test]
    fn resuming_with_another_recipe_keeps_the_one_that_made_the_steps_so_far() {
        let dir = temporary();
        for (config, step) in [("a = 1\n", 0), ("a = 2\n", 5), ("a = 2\n", 6), ("a = 3\n", 5)] {
            RunFolder::resume(dir.path(), config, step).expect("writable");
        }
        assert_eq!(names(dir.path()), ["config-until-5.toml", CONFIG]);
        assert_eq!(text(&dir.path().join("config-until-5.toml")), "a = 1\n");
        assert_eq!(text(&dir.path().join(CONFIG)), "a = 3\n");
    }

    #[test]
    fn resuming_before_an_earlier_resume_keeps_the_recipe_that_made_these_steps() {
        let dir = temporary();
        let resume = |config, step| RunFolder::resume(dir.path(), config, step).expect("writable");
        let kept = |step| text(&dir.path().join(format!("config-until-{step}.toml")));
        for (config, step) in [("a = 1\n", 0), ("a = 2\n", 5), ("a = 3\n", 8)] {
            resume(config, step);
        }
        assert_eq!((kept(5).as_str(), kept(8).as_str()), ("a = 1\n", "a = 2\n"));
        resume("a = 4\n", 6);
        assert_eq!((kept(5).as_str(), kept(6).as_str()), ("a = 1\n", "a = 2\n"));
        resume("a = 5\n", 3);
        assert_eq!(kept(3), "a = 1\n");
        assert_eq!(names(dir.path()), ["config-until-3.toml", CONFIG]);
        // The recipe of the steps before, again: one made them all.
        resume("a = 1\n", 2);
        assert_eq!(names(dir.path()), [CONFIG]);
    }

    #[test]
    fn the_command_that_continues_a_run_is_one_a_shell_can_read() {
        let [wanted, path] = ["runs/my net", "runs/my net-2"].map(Path::new);
        let text = where_it_goes(wanted, path);
        assert!(text.contains("--resume 'runs/my net-2' will continue it"), "{text}");
    }

    #[test]
    fn an_unwritable_place_is_an_error_that_says_what_where_why_and_what_to_do() {
        // Not even root can make a folder there.
        for result in [
            RunFolder::create(Path::new("/proc/runs/net"), |_| "".into()),
            RunFolder::resume(Path::new("/proc/runs/net"), "", 3),
        ] {
            let message = format!("{:#}", result.expect_err("/proc cannot be written"));
            for part in ["cannot make", "/proc/runs/net", "--output-dir", "No such file"] {
                assert!(message.contains(part), "{part:?} is not in {message:?}");
            }
        }
    }
}
