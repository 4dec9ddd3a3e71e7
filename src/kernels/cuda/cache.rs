//! Compiled programs on disk, so that only the first run waits for the compiler.
//!
//! An entry holds all that it was made from and is compared with it, so a hash that collides, a file
//! cut short or one that somebody edited is only a miss. The cache is never in the way: what cannot
//! be read or written is compiled.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::replace;

/// What entries begin with; another layout takes another number.
const MAGIC: &[u8; 8] = b"alexcub1";

/// A folder of compiled programs.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// The user's: `$ALEXNET_CACHE`, else `alexnet-mgpu` in `$XDG_CACHE_HOME` or `~/.cache`. Without
    /// any of these nothing is kept; an empty `ALEXNET_CACHE` says so too.
    #[must_use]
    pub fn of_user() -> Self {
        let below = |variable: &str, path: &str| {
            env::var_os(variable).filter(|v| !v.is_empty()).map(|v| Path::new(&v).join(path))
        };
        let folder = match env::var_os("ALEXNET_CACHE") {
            Some(folder) => (!folder.is_empty()).then(|| folder.into()),
            None => below("XDG_CACHE_HOME", "alexnet-mgpu")
                .or_else(|| below("HOME", ".cache/alexnet-mgpu")),
        };
        Self { folder }
    }

    /// The cache in `folder`, which need not be there yet.
    #[must_use]
    pub fn at(folder: PathBuf) -> Self {
        Self { folder: Some(folder) }
    }

    /// What was made from `key`, or what `make` makes from it now.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn get_or_make<E>(
        &self,
        name: &str,
        key: &str,
        make: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        let path = self.folder.as_ref().map(|f| f.join(format!("{name}-{:016x}", hash(key))));
        if let Some(image) = path.as_deref().and_then(|path| read(path, key)) {
            return Ok(image);
        }
        let image = make()?;
        if let Some(path) = path
            && let Err(error) = write(&path, key, &image)
        {
            tracing::debug!("{}: the compiled kernel is not kept: {error}", path.display());
        }
        Ok(image)
    }
}

/// Another release of the standard library may hash differently: a miss.
fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The image of the entry at `path`, if it is whole and was made from `key`.
fn read(path: &Path, key: &str) -> Option<Vec<u8>> {
    let bytes = fs::read(path).ok()?;
    let rest = bytes.strip_prefix(MAGIC)?;
    let (checksum, rest) = rest.split_first_chunk::<8>()?;
    let image = rest.strip_prefix(key.as_bytes())?.strip_prefix(b"\0")?;
    (*checksum == hash(image).to_le_bytes()).then(|| image.to_vec())
}

/// Replaces the entry at `path` as a whole.
fn write(path: &Path, key: &str, image: &[u8]) -> io::Result<()> {
    fs::create_dir_all(replace::folder(path))?;
    replace::replace(path, |file| {
        let parts = [MAGIC, &hash(image).to_le_bytes()[..], key.as_bytes(), b"\0", image];
        parts.into_iter().try_for_each(|part| file.write_all(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn get(cache: &Cache, key: &str, image: &[u8]) -> (Vec<u8>, bool) {
        let mut made = false;
        let make = || {
            made = true;
            Ok::<_, Infallible>(image.to_vec())
        };
        let image = cache.get_or_make("lrn", key, make).expect("cannot fail");
        (image, made)
    }

    #[test]
    fn what_was_made_once_is_found_and_another_key_is_not() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let cache = Cache::at(folder.path().join("new"));
        assert_eq!(get(&cache, "a", b"one"), (b"one".to_vec(), true));
        assert_eq!(get(&cache, "a", b"two"), (b"one".to_vec(), false));
        assert_eq!(get(&cache, "b", b"two"), (b"two".to_vec(), true));
    }

    #[test]
    fn a_damaged_entry_is_made_again() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let cache = Cache::at(folder.path().to_owned());
        get(&cache, "a", b"a long image");
        let entry = || fs::read_dir(folder.path()).expect("is there").next().expect("one entry");
        let path = entry().expect("readable").path();
        let whole = fs::read(&path).expect("readable");
        let mut flipped = whole.clone();
        *flipped.last_mut().expect("not empty") ^= 1;
        for damaged in [&whole[..whole.len() - 1], &flipped, b"", &whole[..10]] {
            fs::write(&path, damaged).expect("writable");
            assert_eq!(get(&cache, "a", b"a long image"), (b"a long image".to_vec(), true));
            assert_eq!(fs::read(&path).expect("readable"), whole);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_nothing_but_time() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let cache = Cache::at(file.path().join("below a file"));
        assert_eq!(get(&cache, "a", b"one"), (b"one".to_vec(), true));
        assert_eq!(get(&cache, "a", b"two"), (b"two".to_vec(), true));
    }
}
