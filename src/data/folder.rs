//! An image folder: `train/<class>/*` beside `val/<class>/*` or `test/<class>/*`.
//!
//! A class is a folder, its label the folder's place in the sorted list of `train`. Files are
//! chosen by extension (jpg, jpeg, png, in any case) and sorted by name; hidden names (a leading
//! dot) are passed over. What is inside a file is the decoder's business.

use std::ffi::{OsStr, OsString};
use std::fs::{DirEntry, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::DataError;
use super::source::{Content, Source, Split};

/// No photograph is larger; a file that is cannot make a worker allocate without bound.
const MAX_FILE_BYTES: u64 = 256 << 20;
const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];

/// One split of an image folder. Paths are kept as (class, file name): 1.3 million images fit in
/// about 70 MB.
pub(super) struct Folder {
    /// The folder of each class, absent ones included (they have no samples).
    class_dirs: Vec<PathBuf>,
    classes: Vec<String>,
    samples: Vec<Sample>,
}

struct Sample {
    class: u32,
    file: Box<OsStr>,
}

impl Folder {
    /// Scans one split of the image folder at `root`.
    pub(super) fn open(root: &Path, split: Split) -> Result<Self, DataError> {
        let train = root.join("train");
        if !train.is_dir() {
            return Err(without_train(root)?);
        }
        let classes = class_names(&train)?;
        if let [class] = classes.as_slice() {
            let class = class.to_string_lossy().into_owned();
            return Err(DataError::OneClass { path: train, class });
        }
        let folder = match split {
            Split::Train => Self::scan(&train, &classes)?,
            Split::Test => Self::scan(&test_dir(root, &train, &classes)?, &classes)?,
        };
        match split {
            Split::Train => folder.require_images_in_every_class()?,
            Split::Test if folder.samples.is_empty() => {
                let path = folder.class_dirs[0].parent().unwrap_or(root).into();
                return Err(DataError::NoImages { path });
            }
            Split::Test => {}
        }
        Ok(folder)
    }

    /// Lists the images of `classes` below `dir`.
    fn scan(dir: &Path, classes: &[OsString]) -> Result<Self, DataError> {
        let class_dirs: Vec<PathBuf> = classes.iter().map(|class| dir.join(class)).collect();
        let mut samples = Vec::new();
        for (class, class_dir) in (0..).zip(&class_dirs) {
            if class_dir.is_dir() {
                let files = sorted_names(class_dir, is_image)?;
                samples.extend(files.into_iter().map(|file| Sample { class, file: file.into() }));
            }
        }
        let classes = classes.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        Ok(Self { class_dirs, classes, samples })
    }

    fn require_images_in_every_class(&self) -> Result<(), DataError> {
        let mut has_images = vec![false; self.classes.len()];
        self.samples.iter().for_each(|sample| has_images[sample.class as usize] = true);
        match has_images.iter().position(|has| !has) {
            Some(class) => Err(DataError::NoImages { path: self.class_dirs[class].clone() }),
            None => Ok(()),
        }
    }

    fn path(&self, index: usize) -> PathBuf {
        let sample = &self.samples[index];
        self.class_dirs[sample.class as usize].join(&*sample.file)
    }
}

impl Source for Folder {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> usize {
        self.samples[index].class as usize
    }

    fn name(&self, index: usize) -> String {
        self.path(index).display().to_string()
    }

    fn read(&self, index: usize, bytes: &mut Vec<u8>) -> io::Result<Content> {
        read_file(&self.path(index), bytes)?;
        Ok(Content::Encoded)
    }
}

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

/// The sorted class folders of `train`.
fn class_names(train: &Path) -> Result<Vec<OsString>, DataError> {
    let classes = sorted_names(train, is_dir)?;
    if !classes.is_empty() {
        return Ok(classes);
    }
    Err(match sorted_names(train, is_image)?.first() {
        Some(example) => flat(train, example, train),
        None => DataError::NoClasses { path: train.into() },
    })
}

/// `val` if there is one, else `test`; its classes must be classes of `train`.
fn test_dir(root: &Path, train: &Path, classes: &[OsString]) -> Result<PathBuf, DataError> {
    let dir = ["val", "test"].map(|name| root.join(name)).into_iter().find(|dir| dir.is_dir());
    let dir = dir.ok_or_else(|| DataError::NoTest { path: root.into() })?;
    let found = class_names(&dir)?;
    match found.iter().find(|name| classes.binary_search(name).is_err()) {
        Some(name) => {
            Err(DataError::UnknownTestClass { path: dir.join(name), train: train.into() })
        }
        None => Ok(dir),
    }
}

/// Says what is wrong with a folder that has no `train`.
fn without_train(root: &Path) -> Result<DataError, DataError> {
    let dirs = sorted_names(root, is_dir)?;
    let images = sorted_names(root, is_image)?;
    if let (true, Some(example)) = (dirs.is_empty(), images.first()) {
        return Ok(flat(root, example, &root.join("train")));
    }
    let everything = sorted_names(root, |_| Ok(true))?;
    if everything.is_empty() {
        return Ok(DataError::Empty { path: root.into() });
    }
    let mut found: Vec<_> =
        everything.iter().take(3).map(|name| name.to_string_lossy().into_owned()).collect();
    if everything.len() > found.len() {
        found.push(format!("{} more", everything.len() - found.len()));
    }
    Ok(DataError::NoTrain { path: root.into(), found: found.join(", ") })
}

fn flat(path: &Path, example: &OsStr, expected: &Path) -> DataError {
    DataError::Flat {
        path: path.into(),
        example: example.to_string_lossy().into_owned(),
        expected: expected.display().to_string(),
    }
}

/// The names in `dir` that are not hidden and that `keep` accepts, sorted bytewise.
fn sorted_names(
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

fn is_dir(entry: &DirEntry) -> io::Result<bool> {
    let kind = entry.file_type()?;
    Ok(kind.is_dir() || kind.is_symlink() && entry.path().is_dir())
}

fn is_image(entry: &DirEntry) -> io::Result<bool> {
    let name = entry.file_name();
    let extension = Path::new(&name).extension().and_then(OsStr::to_str).unwrap_or("");
    Ok(EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)) && !is_dir(entry)?)
}
