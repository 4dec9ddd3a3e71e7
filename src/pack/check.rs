//! Whether the files of a pack are those that its manifest lists.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rayon::ThreadPool;

use super::destination::{class_list, names};
use super::{SPLITS, contents_of, refuse};
use crate::data::packed::{CLASS_LIST, Format, MANIFEST, Manifest, Shard, State};
use crate::data::{self, DataError, Stats};
use crate::progress::{Count, Screen};

/// Enough at once for all workers to hash.
const BUFFER_BYTES: usize = 8 << 20;

/// The BLAKE3 hash of a file, as `b3sum` prints it, by the threads of `pool` and no others.
pub(super) fn hash(path: &Path, pool: &ThreadPool) -> io::Result<String> {
    pool.install(|| hash_here(path))
}

/// As [`hash`], on the pool of the thread that calls it.
fn hash_here(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..])? {
                0 => break,
                num => filled += num,
            }
        }
        if filled == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        hasher.update_rayon(&buffer[..filled]);
    }
}

/// What is wrong with a shard, if anything is.
pub(super) fn problem(dir: &Path, name: &str, shard: &Shard, pool: &ThreadPool) -> Option<String> {
    let path = dir.join(name);
    let len = match path.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some("is missing".into()),
        Err(error) => return Some(format!("cannot be read: {error}")),
    };
    if len != shard.num_bytes {
        return Some(format!("has {len} bytes where {} must be", shard.num_bytes));
    }
    match hash(&path, pool) {
        Ok(hash) if hash == shard.blake3 => None,
        Ok(hash) => Some(format!("has the BLAKE3 hash {hash} where {} must be", shard.blake3)),
        Err(error) => Some(format!("cannot be read: {error}")),
    }
}

/// Checks every file of a complete pack.
///
/// # Errors
/// What the first damaged, missing or surplus file is.
pub(super) fn verify(dir: &Path, pool: &ThreadPool, screen: &Screen) -> Result<()> {
    let manifest = match Manifest::read(dir)? {
        Some(manifest) if manifest.state == State::Complete => manifest,
        Some(_) => {
            bail!(DataError::malformed(dir, "is not packed to its end; run the same pack again"))
        }
        None => return Err(refuse(dir, &format!("is no packed folder: it has no {MANIFEST}"))),
    };
    let shards = || SPLITS.into_iter().flat_map(|split| &manifest.part(split).shards);
    let total = shards().map(|(_, shard)| shard.num_images as u64).sum();
    let mut count = Count::new(screen, "checked", 0, total);
    for (name, shard) in shards() {
        if let Some(problem) = problem(dir, name, shard, pool) {
            let advice = "copy it again, or run the same pack again, which makes it anew";
            bail!(DataError::malformed(&dir.join(name), format!("{problem}; {advice}")));
        }
        count.advance(shard.num_images as u64);
    }
    drop(count);
    let is_listed = |name: &str| {
        let is_list = manifest.settings.format == Format::Jpeg && name == CLASS_LIST;
        // `alexnet-mgpu stats` leaves its file with the images.
        name == MANIFEST
            || name == Stats::FILE
            || is_list
            || shards().any(|(shard, _)| shard == name)
    };
    if let Some(name) = names(dir)?.iter().find(|name| !is_listed(name)) {
        bail!(DataError::malformed(&dir.join(name), format!("is not in {MANIFEST}; remove it")));
    }
    if manifest.settings.format == Format::Jpeg {
        let path = dir.join(CLASS_LIST);
        let text = std::fs::read_to_string(&path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        if text != class_list(&manifest)? {
            bail!(DataError::malformed(
                &path,
                "has not the classes of the manifest; run the same pack again"
            ));
        }
    }
    // Headers and labels.
    data::open_both(dir)?;
    tracing::info!("{} is whole: {}", dir.display(), contents_of(&manifest)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_is_hashed_by_the_workers_asked_for_and_no_others() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "abc").expect("writable");
        let pool = data::pool(1).expect("a thread");
        let (started, wait_for_start) = mpsc::channel();
        let (hashed, wait_for_hash) = mpsc::channel();
        let (pool, path) = (&pool, file.path());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                wait_for_start.recv().expect("the worker is at work");
                hashed.send(hash(path, pool).expect("readable")).expect("awaited");
            });
            pool.install(move || {
                started.send(()).expect("awaited");
                // A hash made while the only worker is here would arrive at once.
                let early = wait_for_hash.recv_timeout(Duration::from_millis(200));
                assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout));
                wait_for_hash
            })
            .recv()
            .map(|hash| assert!(hash.starts_with("6437b3ac38465133"), "{hash}"))
            .expect("hashed in the end");
        });
    }
}
