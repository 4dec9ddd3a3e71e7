//! Files that are whole at every moment: they are written under a hidden name, forced to disk and
//! renamed.
//!
//! A reader, or the next start after a crash, sees the old content or the new, never a part. What
//! is in a file is not known here.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What the names of files and folders that are not finished start with. A process that is killed
/// leaves them behind.
pub const UNFINISHED: &str = ".unfinished-";

/// Replaces the file at `path` by what `write` writes.
///
/// # Errors
/// What `write` or the system says. What was there before is untouched, unless only the new name could
/// not be forced to disk.
pub fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<()> {
    let new = tempfile::Builder::new()
        .prefix(UNFINISHED)
        // Less the umask, as any file; a temporary one would be its owner's alone.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder(path))?;
    let mut writer = BufWriter::new(new.as_file());
    write(&mut writer)?;
    writer.flush()?;
    drop(writer);
    new.as_file().sync_all()?;
    new.persist(path)?;
    sync_folder(path)
}

/// Gives what is finished, and on disk, its name.
///
/// # Errors
/// What the system says.
pub fn rename(unfinished: &Path, path: &Path) -> io::Result<()> {
    fs::rename(unfinished, path)?;
    sync_folder(path)
}

/// The folder that `path` lies in.
#[must_use]
pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Forces the name of `path` to disk.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("readable").file_name();
        entries.map(|entry| name(entry).into_string().expect("plain names")).collect()
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("file");
        replace(&path, |file| file.write_all(b"old")).expect("writable");
        let failed = replace(&path, |file| {
            file.write_all(b"half of the new")?;
            file.flush()?;
            assert!(names(dir.path()).iter().any(|name| name.starts_with(UNFINISHED)));
            Err(io::Error::other("no space"))
        });
        assert_eq!(failed.expect_err("it failed").to_string(), "no space");
        assert_eq!(fs::read(&path).expect("there"), b"old");
        assert_eq!(names(dir.path()), ["file"]);
        replace(&path, |file| file.write_all(b"new")).expect("writable");
        assert_eq!(fs::read(&path).expect("there"), b"new");
    }

    #[test]
    fn a_file_may_be_read_by_those_who_may_read_any_other() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let [ours, other] = ["ours", "other"].map(|name| dir.path().join(name));
        replace(&ours, |_| Ok(())).expect("writable");
        fs::write(&other, "").expect("writable");
        let mode = |path| fs::metadata(path).expect("written").permissions().mode();
        assert_eq!(mode(&ours), mode(&other));
    }

    #[test]
    fn a_lone_name_lies_in_the_folder_of_the_process() {
        assert_eq!(folder(Path::new("file")), Path::new("."));
        assert_eq!(folder(Path::new("a/file")), Path::new("a"));
    }
}
