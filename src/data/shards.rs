//! Webdataset shards: tars in which `KEY.jpg` and `KEY.cls`, its label as a decimal number, follow
//! each other.
//!
//! Shards are given by a pattern (`imagenet-train-{000000..000146}.tar`) or lie in a folder, or in
//! `train/` and `val/` below it. Which split a shard belongs to is told by its name or folder:
//! `train`, else `val` or `test`. Images keep the order of the shards. Labels count the classes of a
//! file of class names, where one of as many classes lies with the shards; else they are the classes.
//! One in the folder around them may be of another set.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::archive::{Member, ReadAt, printable, walk};
use super::braces;
use super::class_names::{ClassList, Classes, MAX_CLASSES};
use super::error::DataError;
use super::files::{is_image_extension, sorted_names};
use super::source::Split;
use super::tar_images::{Place, TarFile, TarImages};

/// A label, and the white space that people leave around it.
const MAX_LABEL_BYTES: u64 = 32;

/// The shards of a set.
pub(super) struct Shards {
    /// What the user named.
    path: PathBuf,
    /// Where class names are looked for: the folders of the set itself.
    dirs: Vec<PathBuf>,
    train: Vec<PathBuf>,
    test: Vec<PathBuf>,
}

impl Shards {
    /// The shards that a pattern with braces, or the path of one shard, names. Test shards that it
    /// does not name are looked for beside the training shards.
    pub(super) fn of_pattern(pattern: &Path) -> Result<Self, DataError> {
        let malformed = |problem: String| DataError::malformed(pattern, problem);
        let paths = braces::expand(&pattern.to_string_lossy())
            .map_err(|problem| malformed(format!("{problem}; mend the pattern")))?;
        let paths: Vec<PathBuf> = paths.into_iter().map(PathBuf::from).collect();
        if let Some(missing) = paths.iter().find(|path| !path.is_file()) {
            return Err(malformed(format!(
                "the first of its {} shards that is not there is {}; fetch it, or name fewer",
                paths.len(),
                missing.display()
            )));
        }
        let (mut train, mut test) = by_split(&paths);
        if train.is_empty() && test.is_empty() {
            train = paths;
        }
        let folder = match train.first().or(test.first()).and_then(|path| path.parent()) {
            Some(folder) if folder != Path::new("") => folder.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let mut dirs = vec![folder];
        if test.is_empty() {
            test = match beside_train(&dirs[0]) {
                Some(dir) => {
                    dirs.push(dirs[0].join(".."));
                    tars(&dir)?
                }
                None => by_split(&tars(&dirs[0])?).1,
            };
        }
        Ok(Self { path: pattern.into(), dirs, train, test })
    }

    /// The shards in a folder, if it holds any; tars in it are taken for some whatever their names, so that
    /// what is wrong with these is said. The test shards of a folder `train` may lie beside it.
    pub(super) fn in_folder(root: &Path) -> Result<Option<Self>, DataError> {
        let here = tars(root)?;
        let (mut train, mut test) = by_split(&here);
        let below = |name| {
            let dir = root.join(name);
            if dir.is_dir() { tars(&dir) } else { Ok(Vec::new()) }
        };
        if train.is_empty() {
            train = below("train")?;
        }
        for name in ["val", "test"] {
            if test.is_empty() {
                test = below(name)?;
            }
        }
        let mut dirs = vec![root.to_path_buf()];
        if test.is_empty()
            && let Some(dir) = beside_train(root)
        {
            dirs.push(root.join(".."));
            test = tars(&dir)?;
        }
        let has_tars = !here.is_empty() && !root.join("train").is_dir();
        if train.is_empty() && test.is_empty() && !has_tars {
            return Ok(None);
        }
        Ok(Some(Self { path: root.into(), dirs, train, test }))
    }

    /// Indexes one split; `classes` are those of the training split, if they are known already.
    pub(super) fn open(
        &self,
        split: Split,
        classes: Option<&[String]>,
    ) -> Result<TarImages, DataError> {
        let (paths, name) = match split {
            Split::Train => (&self.train, "train"),
            Split::Test => (&self.test, "val or test"),
        };
        if paths.is_empty() {
            let problem = format!(
                "has no shards with {name} in their name; rename them, or name all shards by a pattern such as \
                 {{train,val}}-{{000..146}}.tar"
            );
            return Err(DataError::malformed(&self.path, problem));
        }
        let files: Vec<TarFile> = paths.iter().map(|path| TarFile::new(path)).collect();
        let images = index(&files)?;
        let num_classes = match (classes, split) {
            (Some(classes), _) => classes.len(),
            (None, Split::Train) => num_classes(&images),
            (None, Split::Test) => num_classes(&index(&self.train_files())?),
        };
        let list = ClassList::find(&self.dirs);
        let fits = |list: &ClassList| list.len() == num_classes;
        // Where the classes are known it has been said.
        if classes.is_none()
            && let Some(list) = list.as_ref().filter(|list| !fits(list))
        {
            tracing::warn!(
                "{}: lists {} classes, and the labels of the training images count {num_classes}; classes are \
                 called by their numbers",
                list.path().display(),
                list.len()
            );
        }
        let classes = match list.filter(fits) {
            Some(list) => list.into_classes(),
            None => Classes::unnamed((0..num_classes).map(|label| label.to_string()).collect()),
        };
        self.check(&files, &images, &classes)?;
        TarImages::new(files, images, classes)
    }

    fn train_files(&self) -> Vec<TarFile> {
        self.train.iter().map(|path| TarFile::new(path)).collect()
    }

    /// Every label is a class, and there are two classes.
    fn check(
        &self,
        files: &[TarFile],
        images: &[Place],
        classes: &Classes,
    ) -> Result<(), DataError> {
        let num_classes = classes.ids.len();
        if let [class] = classes.ids.as_slice() {
            return Err(DataError::OneClass { path: self.path.clone(), class: class.clone() });
        }
        match images.iter().find(|image| image.label as usize >= num_classes) {
            Some(image) => Err(files[image.file as usize].malformed(format!(
                "holds the label {}, but there are only {num_classes} classes; labels count from 0",
                image.label
            ))),
            None => Ok(()),
        }
    }
}

/// The folder of the test shards beside a folder `train`, if there is one.
fn beside_train(folder: &Path) -> Option<PathBuf> {
    let beside = ["val", "test"].map(|name| folder.join("..").join(name));
    beside.into_iter().find(|dir| folder.ends_with("train") && dir.is_dir())
}

/// The tars of a folder, by name.
fn tars(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    let is_tar = |entry: &std::fs::DirEntry| {
        Ok(Path::new(&entry.file_name()).extension().is_some_and(|extension| extension == "tar"))
    };
    Ok(sorted_names(dir, is_tar)?.iter().map(|name| dir.join(name)).collect())
}

/// The shards of training and of testing, by their names. Those of `val` are taken before `test`.
fn by_split(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let named = |word: &str| -> Vec<PathBuf> {
        paths.iter().filter(|path| split_of(path) == Some(word)).cloned().collect()
    };
    let val = named("val");
    let test = if val.is_empty() { named("test") } else { val };
    (named("train"), test)
}

/// The split that a shard's name says it is of, or else its folder's. Of a name that holds several words, such as
/// `carnival-train` or `latest-val`, `train` counts before `val`, and `val` before `test`.
fn split_of(path: &Path) -> Option<&'static str> {
    const WORDS: [&str; 3] = ["train", "val", "test"];
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
    let in_name = WORDS.into_iter().find(|word| file.contains(word));
    in_name.or_else(|| WORDS.into_iter().find(|word| folder == *word))
}

/// Indexes shards, several at a time.
fn index(files: &[TarFile]) -> Result<Vec<Place>, DataError> {
    let numbered: Vec<_> = (0..).zip(files).collect();
    let places = numbered.into_par_iter().map(|(number, shard)| {
        let (file, len) = shard.open()?;
        index_shard(&file, len, number).map_err(|problem| shard.malformed(problem))
    });
    Ok(places.collect::<Result<Vec<_>, _>>()?.concat())
}

/// The images of one shard, in its order.
///
/// # Errors
/// In words, without the file's name.
pub(super) fn index_shard(file: &dyn ReadAt, len: u64, number: u32) -> Result<Vec<Place>, String> {
    let mut images = Vec::new();
    let mut sample = Sample::default();
    walk(file, 0..len, |member| {
        let (key, extension) = split_name(member.name);
        if key != sample.key {
            images.extend(std::mem::take(&mut sample).finish()?);
            key.clone_into(&mut sample.key);
        }
        if extension == "cls" {
            let label = read_label(file, &member)?;
            sample.set_label(label)
        } else if is_image_extension(extension) {
            sample.set_image(Place::new(&member, number, 0)?)
        } else {
            Ok(()) // masks, captions and the like
        }
    })?;
    images.extend(sample.finish()?);
    Ok(images)
}

/// The members with one key.
#[derive(Default)]
struct Sample {
    key: String,
    image: Option<Place>,
    label: Option<u32>,
}

impl Sample {
    fn set_image(&mut self, place: Place) -> Result<(), String> {
        match self.image.replace(place) {
            None => Ok(()),
            Some(_) => Err(self.problem("has two images")),
        }
    }

    fn set_label(&mut self, label: u32) -> Result<(), String> {
        match self.label.replace(label) {
            None => Ok(()),
            Some(_) => Err(self.problem("has two labels (.cls)")),
        }
    }

    /// The image with its label, if the key has one.
    fn finish(self) -> Result<Option<Place>, String> {
        match (self.image, self.label) {
            (Some(image), Some(label)) => Ok(Some(image.with_label(label))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(self.problem("has an image, but no .cls beside it")),
            (None, Some(_)) => Err(self.problem("has a .cls, but no image (jpg, jpeg, png)")),
        }
    }

    fn problem(&self, problem: &str) -> String {
        format!(
            "the sample {} {problem}; a key's files must follow each other (tar --sort=name)",
            printable(&self.key)
        )
    }
}

/// The key and the extension of a member: its name up to the first dot of the file, and the rest.
fn split_name(name: &str) -> (&str, &str) {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[file..].find('.') {
        Some(dot) => (&name[..file + dot], &name[file + dot + 1..]),
        None => (name, ""),
    }
}

fn read_label(file: &dyn ReadAt, member: &Member) -> Result<u32, String> {
    let name = || printable(member.name);
    let wrong =
        || format!("{} is not a label: a decimal number from 0 to {}", name(), MAX_CLASSES - 1);
    if member.len() > MAX_LABEL_BYTES {
        return Err(wrong());
    }
    let mut bytes = vec![0; member.len() as usize];
    file.read_at(&mut bytes, member.bytes.start)
        .map_err(|error| format!("cannot read {}: {error}", name()))?;
    let label = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
    label.filter(|&label: &u32| (label as usize) < MAX_CLASSES).ok_or_else(wrong)
}

/// The labels that occur are the classes, and those between them.
fn num_classes(images: &[Place]) -> usize {
    let labels: BTreeSet<u32> = images.iter().map(|image| image.label).collect();
    let num_classes = labels.last().map_or(0, |&label| label as usize + 1);
    if labels.len() < num_classes {
        tracing::warn!(
            "{} of the {num_classes} classes have no training image: labels count from 0",
            num_classes - labels.len()
        );
    }
    num_classes
}
