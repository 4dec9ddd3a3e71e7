//! ILSVRC2012 as it is distributed, without unpacking: `ILSVRC2012_img_train.tar`, a tar of one tar
//! for each class, and `ILSVRC2012_img_val.tar` with its labels in a file.
//!
//! Class tars are also taken from `train/n01440764.tar ...`, where people have unpacked the outer tar
//! only. Images are sorted as the files of an unpacked folder would be, so that training does not
//! depend on the form.

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::archive::printable;
use super::class_names::{Classes, around};
use super::error::DataError;
use super::files::{has_image_extension, is_dir, sorted_names, to_strings};
use super::tar_images::{Place, TarFile, TarImages};
use super::validation::Validation;

const TRAIN: &str = "ILSVRC2012_img_train.tar";
const VAL: &str = "ILSVRC2012_img_val.tar";

/// Whether a path is one of the two tars, by its name.
pub(super) fn is_name(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == TRAIN || name == VAL)
}

/// Whether the folder `root` holds the training tar, or class tars in `train`.
pub(super) fn is_here(root: &Path) -> Result<bool, DataError> {
    Ok(root.join(TRAIN).is_file() || !class_tars(&root.join("train"))?.is_empty())
}

/// The names of class tars in a folder without class folders: `n01440764.tar`, ...
fn class_tars(dir: &Path) -> Result<Vec<String>, DataError> {
    if !dir.is_dir() || !sorted_names(dir, is_dir)?.is_empty() {
        return Ok(Vec::new());
    }
    let names = sorted_names(dir, |_| Ok(true))?;
    let names = names.iter().map(|name| name.to_string_lossy().into_owned());
    Ok(names.filter(|name| name.strip_suffix(".tar").is_some_and(is_wordnet_id)).collect())
}

/// The tars of the training classes, sorted by class.
pub(super) struct ClassTars {
    root: PathBuf,
    /// Where they lie.
    path: PathBuf,
    files: Vec<TarFile>,
    tars: Vec<ClassTar>,
}

struct ClassTar {
    class: String,
    file: u32,
    /// Its bytes in that file.
    within: Range<u64>,
}

impl ClassTars {
    /// Lists the class tars of the set at `root`, if it has any, without reading them.
    pub(super) fn find(root: &Path) -> Result<Option<Self>, DataError> {
        let outer = root.join(TRAIN);
        let mut found = if outer.is_file() {
            Self::in_tar(root, outer)?
        } else {
            match Self::in_folder(root)? {
                Some(found) => found,
                None => return Ok(None),
            }
        };
        found.tars.sort_by(|a, b| a.class.cmp(&b.class));
        let twice = found.tars.windows(2).find(|pair| pair[0].class == pair[1].class);
        if let Some([ClassTar { class, .. }, _]) = twice {
            let problem = format!("has the class {} twice; fetch it again", printable(class));
            return Err(DataError::malformed(&found.path, problem));
        }
        match found.tars.as_slice() {
            [] => Err(DataError::malformed(&found.path, "holds no class tars (n01440764.tar ...)")),
            [only] => {
                Err(DataError::OneClass { path: found.path.clone(), class: only.class.clone() })
            }
            _ => Ok(Some(found)),
        }
    }

    fn in_tar(root: &Path, path: PathBuf) -> Result<Self, DataError> {
        let outer = TarFile::new(&path);
        let (file, len) = outer.open()?;
        let mut tars = Vec::new();
        outer.walk(&file, 0..len, |member| {
            let class = member.file_name().strip_suffix(".tar").ok_or_else(|| {
                format!(
                    "holds {}, but the training tar of ILSVRC2012 holds one tar for each class \
                     (n01440764.tar ...)",
                    printable(member.name)
                )
            })?;
            tars.push(ClassTar { class: class.into(), file: 0, within: member.bytes.clone() });
            Ok(())
        })?;
        Ok(Self { root: root.into(), path, files: vec![outer], tars })
    }

    /// `train/n01440764.tar`, ...
    fn in_folder(root: &Path) -> Result<Option<Self>, DataError> {
        let path = root.join("train");
        let (mut files, mut tars) = (Vec::new(), Vec::new());
        for name in class_tars(&path)? {
            let file = TarFile::new(&path.join(&name));
            let within = 0..file.open()?.1;
            let class = name.trim_end_matches(".tar").into();
            tars.push(ClassTar { class, file: files.len() as u32, within });
            files.push(file);
        }
        Ok((!tars.is_empty()).then(|| Self { root: root.into(), path, files, tars }))
    }

    /// Where they lie.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The sorted classes.
    pub(super) fn classes(&self) -> Vec<OsString> {
        self.tars.iter().map(|tar| tar.class.clone().into()).collect()
    }

    /// Indexes all images, several tars at a time.
    pub(super) fn images(self) -> Result<TarImages, DataError> {
        let tars: Vec<_> = (0..).zip(&self.tars).collect();
        let places = tars
            .into_par_iter()
            .map(|(label, tar)| self.index(label, tar))
            .collect::<Result<Vec<_>, _>>()?
            .concat();
        let classes = self.tars.iter().map(|tar| tar.class.clone()).collect();
        let classes = Classes::named(classes, &around(&self.root));
        TarImages::new(self.files, places, classes)
    }

    /// The images of one class, by name.
    fn index(&self, label: u32, tar: &ClassTar) -> Result<Vec<Place>, DataError> {
        let outer = &self.files[tar.file as usize];
        let (file, _) = outer.open()?;
        let of_class = |problem| format!("{}.tar: {problem}", printable(&tar.class));
        let mut images = Vec::new();
        let indexed = super::archive::walk(&file, tar.within.clone(), |member| {
            if has_image_extension(Path::new(member.name)) {
                images.push((member.name.to_owned(), Place::new(&member, tar.file, label)?));
            }
            Ok(())
        });
        let no_images = || Err("has no images (*.JPEG); fetch it again".into());
        indexed
            .and_then(|()| if images.is_empty() { no_images() } else { Ok(()) })
            .map_err(|problem| outer.malformed(of_class(problem)))?;
        images.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(images.into_iter().map(|(_, place)| place).collect())
    }
}

/// The validation tar of the set at `root`, if there is one, for the sorted `classes` of training.
pub(super) fn validation(
    root: &Path,
    classes: &[OsString],
) -> Result<Option<TarImages>, DataError> {
    let path = root.join(VAL);
    if !path.is_file() {
        return Ok(None);
    }
    let dirs = around(root);
    let classes = to_strings(classes);
    let labels = Validation::find(&dirs, &classes)?;
    let tar = TarFile::new(&path);
    let (file, len) = tar.open()?;
    let mut images = Vec::new();
    tar.walk(&file, 0..len, |member| {
        if has_image_extension(Path::new(member.name)) {
            let label = labels.label(member.file_name())?;
            images.push((label, member.file_name().to_owned(), Place::new(&member, 0, label)?));
        }
        Ok(())
    })?;
    images.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let places = images.into_iter().map(|(_, _, place)| place).collect();
    TarImages::new(vec![tar], places, Classes::named(classes, &dirs)).map(Some)
}

/// `n` and eight digits.
fn is_wordnet_id(name: &str) -> bool {
    name.strip_prefix('n')
        .is_some_and(|digits| digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit()))
}
