//! What the classes of a set are called: by the set itself, and for people.
//!
//! ImageNet's classes are WordNet ids such as `n01440764`; what they mean is in a file that people
//! keep in the data folder or beside it. Names for people are an extra: a file that cannot be used
//! is a warning, and the ids take the place of the names.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::archive::printable;

/// In order of preference.
const FILES: [&str; 3] =
    ["imagenet_class_index.json", "synset_words.txt", "LOC_synset_mapping.txt"];
/// ImageNet's largest has 32 kB for 1000 classes.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Above the number of classes of any set, so that a damaged label cannot fill the memory.
pub(super) const MAX_CLASSES: usize = 100_000;

/// The classes of a set, by label.
#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    /// What tells them apart: folder names, WordNet ids, numbers.
    pub(super) ids: Vec<String>,
    /// What people call them; the ids where nothing else is known.
    pub(super) names: Vec<String>,
}

impl Classes {
    /// Looks for the names of `ids` in the folders `dirs`.
    pub(super) fn named(ids: Vec<String>, dirs: &[PathBuf]) -> Self {
        let known = ClassList::find(dirs).unwrap_or_default();
        let by_id: HashMap<_, _> = known.classes.iter().map(|(id, name)| (id, name)).collect();
        let names = ids.iter().map(|id| by_id.get(id).map_or(id, |name| *name).clone()).collect();
        Self { ids, names }
    }

    /// Classes of which only the ids are known.
    pub(super) fn unnamed(ids: Vec<String>) -> Self {
        Self { names: ids.clone(), ids }
    }
}

/// The classes of a file.
#[derive(Debug, Default)]
pub(super) struct ClassList {
    path: PathBuf,
    /// In the order of their labels: (id, name).
    classes: Vec<(String, String)>,
}

impl ClassList {
    /// The first file with class names in `dirs`, if it can be used.
    pub(super) fn find(dirs: &[PathBuf]) -> Option<Self> {
        let paths = dirs.iter().flat_map(|dir| FILES.map(|file| dir.join(file)));
        let path = paths.into_iter().find(|path| path.is_file())?;
        let text = read_text(&path, MAX_FILE_BYTES);
        let list = text.map_err(|error| error.to_string()).and_then(|text| {
            match path.extension().is_some_and(|extension| extension == "json") {
                true => from_json(&text),
                false => from_lines(&text),
            }
        });
        match list {
            Ok(classes) => Some(Self { path, classes }),
            Err(problem) => {
                tracing::warn!("{}: {problem}; its class names are not used", path.display());
                None
            }
        }
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of classes.
    pub(super) fn len(&self) -> usize {
        self.classes.len()
    }

    /// All classes of the file, by label.
    pub(super) fn into_classes(self) -> Classes {
        let (ids, names) = self.classes.into_iter().unzip();
        Classes { ids, names }
    }
}

/// `{"0": ["n01440764", "tench"], ...}`.
pub(super) fn from_json(text: &str) -> Result<Vec<(String, String)>, String> {
    let entries: BTreeMap<String, (String, String)> =
        serde_json::from_str(text).map_err(|error| printable(&error.to_string()))?;
    let mut by_label = BTreeMap::new();
    for (label, class) in entries {
        let number: usize = label
            .parse()
            .map_err(|_| format!("the key \"{}\" is not a label", printable(&label)))?;
        by_label.insert(number, class);
    }
    if by_label.keys().copied().ne(0..by_label.len()) {
        return Err("its labels do not count from 0 without a gap".into());
    }
    Ok(by_label.into_values().collect())
}

/// `n01440764 tench, Tinca tinca`, one class a line.
pub(super) fn from_lines(text: &str) -> Result<Vec<(String, String)>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let class = |line: &str| match line.split_once(char::is_whitespace) {
        Some((id, name)) => Ok((id.into(), name.trim().into())),
        None => Err(format!("the line \"{}\" is not an id and a name", printable(line))),
    };
    lines.map(class).collect()
}

/// Where files that describe the set at `root` may lie: in it, beside it, and for Kaggle's
/// `ILSVRC/Data/CLS-LOC` where Kaggle puts them.
pub(super) fn around(root: &Path) -> Vec<PathBuf> {
    let mut dirs = vec![root.to_path_buf(), root.join("..")];
    if root.ends_with("Data/CLS-LOC") {
        dirs.push(root.join("../../.."));
    }
    dirs
}

/// A text file of at most `limit` bytes.
pub(super) fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(io::Error::other(format!("larger than {} MiB", limit >> 20)));
    }
    Ok(text)
}
