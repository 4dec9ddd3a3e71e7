//! An image folder: `train/<class>/*` beside `val/<class>/*` or `test/<class>/*`, or a flat `val` of
//! ImageNet's validation images with their labels in a file.
//!
//! A class is a folder, its label the folder's place in the sorted list of `train`. Files are sorted
//! by name within their class. What is inside a file is the decoder's business.

use std::cell::{Cell, RefCell};
use std::ffi::{OsStr, OsString};
use std::fs::DirEntry;
use std::io;
use std::path::{Path, PathBuf};

use super::class_names::{Classes, around};
use super::error::DataError;
use super::files::{
    is_dir, is_image, is_image_of_another_format, read_file, sorted_names, to_strings,
};
use super::source::{Content, Source};
use super::validation::{self, Validation};

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

    /// Scans `root/name`, if it is there, for images of the `classes` of `train`.
    pub(super) fn test(
        root: &Path,
        name: &str,
        train: &Path,
        classes: &[OsString],
    ) -> Result<Option<Self>, DataError> {
        let dir = root.join(name);
        if !dir.is_dir() {
            return Ok(None);
        }
        let found = sorted_names(&dir, is_dir)?;
        if found.is_empty() {
            return Self::flat_test(root, &dir, classes).map(Some);
        }
        if let Some(name) = found.iter().find(|name| classes.binary_search(name).is_err()) {
            let (path, train) = (dir.join(name), train.into());
            return Err(DataError::UnknownTestClass { path, train });
        }
        let mut lacking = classes.iter().filter(|class| found.binary_search(class).is_err());
        if let Some(first) = lacking.next() {
            tracing::warn!(
                "{}: {} of the classes, such as {}, have no test images: accuracy is that on the others",
                dir.display(),
                lacking.count() + 1,
                first.display()
            );
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
        let (mut samples, num_left_out) = (Vec::new(), Cell::new(0));
        let is_image = |entry: &DirEntry| {
            let found = is_image(entry)?;
            let is_left_out = !found && is_image_of_another_format(entry);
            num_left_out.set(num_left_out.get() + usize::from(is_left_out));
            Ok(found)
        };
        for (class, class_dir) in (0..).zip(&class_dirs) {
            if class_dir.is_dir() {
                let files = sorted_names(class_dir, is_image)?;
                samples.extend(files.into_iter().map(|file| Sample { class, file: file.into() }));
            }
        }
        if let num @ 1.. = num_left_out.get() {
            tracing::warn!(
                "{}: {num} image(s) of other formats are left out; convert them to JPEG or PNG",
                dir.display()
            );
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
