//! Folders and files as image sets need them: sorted names, images by their extension (jpg, jpeg, png, in
//! any case), hidden names (a leading dot) passed over, and nothing read beyond a limit.

use std::ffi::{OsStr, OsString};
use std::fs::{DirEntry, File};
use std::io::{self, Read};
use std::path::Path;

use super::error::DataError;

/// No photograph is larger; a file that is cannot make a worker allocate without bound.
pub(super) const MAX_FILE_BYTES: u64 = 256 << 20;
/// What image files are called.
const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];

/// Replaces `bytes` by the content of a file of at most [`MAX_FILE_BYTES`].
pub(super) fn read_file(path: &Path, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    let file = File::open(path)?;
    bytes.reserve(file.metadata()?.len().min(MAX_FILE_BYTES) as usize);
    file.take(MAX_FILE_BYTES + 1).read_to_end(bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("larger than {} MiB", MAX_FILE_BYTES >> 20)));
    }
    Ok(())
}

/// Names as text.
pub(super) fn to_strings(names: &[OsString]) -> Vec<String> {
    names.iter().map(|name| name.to_string_lossy().into_owned()).collect()
}

/// The names in `dir` that are not hidden and that `keep` accepts, sorted bytewise.
pub(super) fn sorted_names(
    dir: &Path,
    keep: impl Fn(&DirEntry) -> io::Result<bool>,
) -> Result<Vec<OsString>, DataError> {
    let list = || -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if !name.as_encoded_bytes().starts_with(b".") && keep(&entry)? {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    };
    list().map_err(DataError::io("list", dir))
}

pub(super) fn is_dir(entry: &DirEntry) -> io::Result<bool> {
    let kind = entry.file_type()?;
    Ok(kind.is_dir() || kind.is_symlink() && entry.path().is_dir())
}

pub(super) fn is_image(entry: &DirEntry) -> io::Result<bool> {
    Ok(has_image_extension(Path::new(&entry.file_name())) && !is_dir(entry)?)
}

/// Whether a file is an image that cannot be decoded here, by its name.
pub(super) fn is_image_of_another_format(entry: &DirEntry) -> bool {
    const OTHERS: [&str; 8] = ["webp", "bmp", "gif", "tif", "tiff", "avif", "heic", "jxl"];
    let name = entry.file_name();
    let extension = Path::new(&name).extension().and_then(OsStr::to_str);
    extension.is_some_and(|found| OTHERS.iter().any(|other| found.eq_ignore_ascii_case(other)))
}

/// Whether a file is an image, by its name.
pub(super) fn has_image_extension(name: &Path) -> bool {
    name.extension().and_then(OsStr::to_str).is_some_and(is_image_extension)
}

/// Whether images are called so.
pub(super) fn is_image_extension(extension: &str) -> bool {
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}
