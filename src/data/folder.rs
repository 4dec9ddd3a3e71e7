//! An image folder: `train/<class>/*` beside `val/<class>/*` or `test/<class>/*`, or a flat `val` of
//! ImageNet's validation images with their labels in a file.
//!
//! A class is a folder, its label the folder's place in the sorted list of `train`. Files are
//! chosen by extension (jpg, jpeg, png, in any case) and sorted by name within their class; hidden
//! names (a leading dot) are passed over. What is inside a file is the decoder's business.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs::{DirEntry, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::class_names::{Classes, around};
use super::error::DataError;
use super::source::{Content, Source};
use super::validation::{self, Validation};

/// No photograph is larger; a file that is cannot make a worker allocate without bound.
pub(super) const MAX_FILE_BYTES: u64 = 256 << 20;
/// What image files are called.
const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];

/// One split of an image folder. Paths are kept as (class, file name): 1.3 million images fit in
/// about 70 MB.
pub(super) struct Folder {
    /// The folder of each class, absent ones included (they have no samples).
    class_dirs: Vec<PathBuf>,
    classes: Classes,
    samples: Vec<Sample>,
}

struct Sample {
    class: u32,
    file: Box<OsStr>,
}

impl Folder {
    /// Scans `root/train`.
    pub(super) fn train(root: &Path) -> Result<Self, DataError> {
        let classes = train_classes(root)?;
        let folder = Self::scan(root, &root.join("train"), &classes)?;
        folder.require_images_in_every_class()?;
        Ok(folder)
    }

    /// Scans `root/val` or `root/test`, if there is either, for images of the `classes` of `train`.
    pub(super) fn test(
        root: &Path,
        train: &Path,
        classes: &[OsString],
    ) -> Result<Option<Self>, DataError> {
        let dir = ["val", "test"].map(|name| root.join(name)).into_iter().find(|dir| dir.is_dir());
        let Some(dir) = dir else { return Ok(None) };
        let found = sorted_names(&dir, is_dir)?;
        if found.is_empty() {
            return Self::flat_test(root, &dir, classes).map(Some);
        }
        if let Some(name) = found.iter().find(|name| classes.binary_search(name).is_err()) {
            let (path, train) = (dir.join(name), train.into());
            return Err(DataError::UnknownTestClass { path, train });
        }
        let folder = Self::scan(root, &dir, classes)?;
        if folder.samples.is_empty() {
            return Err(DataError::NoImages { path: dir });
        }
        Ok(Some(folder))
    }

    /// Lists the images of `classes` below `dir`.
    fn scan(root: &Path, dir: &Path, classes: &[OsString]) -> Result<Self, DataError> {
        let class_dirs: Vec<PathBuf> = classes.iter().map(|class| dir.join(class)).collect();
        let mut samples = Vec::new();
        for (class, class_dir) in (0..).zip(&class_dirs) {
            if class_dir.is_dir() {
                let files = sorted_names(class_dir, is_image)?;
                samples.extend(files.into_iter().map(|file| Sample { class, file: file.into() }));
            }
        }
        let classes = Classes::named(to_strings(classes), &around(root));
        Ok(Self { class_dirs, classes, samples })
    }

    /// Lists ImageNet's validation images, which lie in `dir` without class folders.
    fn flat_test(root: &Path, dir: &Path, classes: &[OsString]) -> Result<Self, DataError> {
        let files = sorted_names(dir, is_image)?;
        match files.first() {
            None => return Err(DataError::NoClasses { path: dir.into() }),
            Some(example) if !validation::is_name(&example.to_string_lossy()) => {
                return Err(flat(dir, example, dir));
            }
            Some(_) => {}
        }
        let mut around = around(root);
        let classes = Classes::named(to_strings(classes), &around);
        around.push(dir.into());
        let labels = Validation::find(&around, &classes.ids)?;
        let label = |file: OsString| match labels.label(&file.to_string_lossy()) {
            Ok(class) => Ok(Sample { class, file: file.into() }),
            Err(problem) => Err(DataError::malformed(dir, problem)),
        };
        let mut samples = files.into_iter().map(label).collect::<Result<Vec<_>, _>>()?;
        // As if they lay in class folders: the files are sorted already.
        samples.sort_by_key(|sample| sample.class);
        Ok(Self { class_dirs: vec![dir.into(); classes.ids.len()], classes, samples })
    }

    fn require_images_in_every_class(&self) -> Result<(), DataError> {
        let mut has_images = vec![false; self.class_dirs.len()];
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

thread_local! {
    /// The path that is being read, in memory that is kept between files.
    static PATH: RefCell<OsString> = const { RefCell::new(OsString::new()) };
}

impl Source for Folder {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes.ids
    }

    fn class_names(&self) -> &[String] {
        &self.classes.names
    }

    fn label(&self, index: usize) -> usize {
        self.samples[index].class as usize
    }

    fn name(&self, index: usize) -> String {
        self.path(index).display().to_string()
    }

    fn read(&self, index: usize, bytes: &mut Vec<u8>) -> io::Result<Content> {
        let sample = &self.samples[index];
        PATH.with_borrow_mut(|path| {
            path.clear();
            path.push(&self.class_dirs[sample.class as usize]);
            path.push("/");
            path.push(&*sample.file);
            read_file(Path::new(path), bytes)
        })?;
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

/// Whether `root/train` holds folders.
pub(super) fn has_class_folders(root: &Path) -> Result<bool, DataError> {
    let train = root.join("train");
    Ok(train.is_dir() && !sorted_names(&train, is_dir)?.is_empty())
}

/// The sorted class folders of `root/train`, at least two.
pub(super) fn train_classes(root: &Path) -> Result<Vec<OsString>, DataError> {
    let train = root.join("train");
    if !train.is_dir() {
        return Err(without_train(root)?);
    }
    let classes = sorted_names(&train, is_dir)?;
    match classes.as_slice() {
        [] => Err(match sorted_names(&train, is_image)?.first() {
            Some(example) => flat(&train, example, &train),
            None => DataError::NoClasses { path: train },
        }),
        [class] => {
            let class = class.to_string_lossy().into_owned();
            Err(DataError::OneClass { path: train, class })
        }
        _ => Ok(classes),
    }
}

/// Names as text.
pub(super) fn to_strings(names: &[OsString]) -> Vec<String> {
    names.iter().map(|name| name.to_string_lossy().into_owned()).collect()
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

fn is_image(entry: &DirEntry) -> io::Result<bool> {
    Ok(has_image_extension(Path::new(&entry.file_name())) && !is_dir(entry)?)
}

/// Whether a file is an image, by its name.
pub(super) fn has_image_extension(name: &Path) -> bool {
    name.extension().and_then(OsStr::to_str).is_some_and(is_image_extension)
}

/// Whether images are called so.
pub(super) fn is_image_extension(extension: &str) -> bool {
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}
