//! Runs on disk: written whole or not at all, read back bit for bit.
//!
//! A checkpoint is a folder `checkpoints/step-NNNNNNNN` with the canonical weights and the optimizer's
//! state as safetensors and one JSON file, and the training images' statistics if there is a mean
//! image. It appears by a rename, after its bytes are on disk, so that a full disk or a kill leaves the
//! previous one as it was. The links `last` and `best` point to checkpoints.
//!
//! When a run goes on from a checkpoint that was not the last, later ones are of a history that is given up.
//! They are the first to go once a new one is safe, and `best` keeps its own until there is another. A step
//! that is made again meanwhile gets a folder `step-NNNNNNNN-2`, so that nothing goes before the links have
//! left it. The module knows nothing of ranks.

mod keep;
mod tensors;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use crate::canonical::Tensors;
use crate::data::Stats;
use crate::exit::{Coded, Exit};
use crate::replace::{self, UNFINISHED};
use crate::schedule::PlateauState;
use crate::shell;
use keep::{free_name, names, numbers_in, prune, remove_leftovers};
use tensors::{tensors_in, write_tensors};

pub use keep::Keep;
pub use tensors::read_tensors;

/// The version of the layout this program writes and reads.
const FORMAT: u32 = 1;
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// Everything of a run that is not a tensor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The version of the layout.
    pub format: u32,
    /// Steps done.
    pub step: u64,
    /// The architecture's name.
    pub arch: String,
    /// What tells the classes apart, in the order of the logits.
    pub classes: Vec<String>,
    /// What people call them, in the same order.
    #[serde(default)]
    pub class_names: Vec<String>,
    /// Where a plateau schedule stands.
    pub schedule: PlateauState,
    /// The best top-1 accuracy so far.
    pub best_top1: Option<f64>,
    /// Steps in one pass over the training images, by which a step's number means an epoch and a batch.
    #[serde(default)]
    pub steps_per_epoch: Option<u64>,
    /// The resolved configuration, as TOML.
    pub config: String,
    /// Bytes of each file, to tell a truncated one.
    pub sizes: BTreeMap<String, u64>,
    /// The BLAKE3 hash of each file, to tell a damaged one.
    #[serde(default)]
    pub hashes: BTreeMap<String, String>,
}

impl State {
    /// The state of a run; sizes and hashes are filled in when it is saved.
    #[must_use]
    pub fn new(step: u64, arch: String, classes: Vec<String>, config: String) -> Self {
        let (schedule, best_top1) = (PlateauState::default(), None);
        let sizes = BTreeMap::new();
        let class_names = classes.clone();
        Self {
            format: FORMAT,
            step,
            arch,
            classes,
            class_names,
            schedule,
            best_top1,
            steps_per_epoch: None,
            config,
            sizes,
            hashes: BTreeMap::new(),
        }
    }
}

/// A run at rest.
pub struct Checkpoint {
    /// What is not a tensor.
    pub state: State,
    /// Canonical weights by name.
    pub weights: Tensors,
    /// The optimizer's state, `conv1.weight.velocity` and so on.
    pub optimizer: Tensors,
    /// The statistics of the training images, where the model subtracts their mean image.
    pub stats: Option<Arc<Stats>>,
}

/// Whether a checkpoint becomes the target of the link `best`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It has the best accuracy so far.
    Best,
    /// It has not.
    Regular,
}

fn checkpoints(run_dir: &Path) -> PathBuf {
    run_dir.join("checkpoints")
}

/// Writes `checkpoint`, points `last` (and `best`) to it, and removes what `keep` does not name. The folder
/// written.
///
/// # Errors
/// If it cannot be written; what was there before is untouched. One that cannot be removed is a warning.
pub fn save(run_dir: &Path, checkpoint: &Checkpoint, keep: Keep, mark: Mark) -> Result<PathBuf> {
    let all = checkpoints(run_dir);
    let failed = || {
        format!(
            "cannot save a checkpoint in {}; the previous ones are untouched. Free some space or \
             choose another --output-dir, then continue with --resume auto",
            all.display()
        )
    };
    fs::create_dir_all(&all).with_context(failed)?;
    remove_leftovers(&all);
    let unfinished =
        tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&all).with_context(failed)?;
    write_files(unfinished.path(), checkpoint).with_context(failed)?;
    let name = free_name(&all, checkpoint.state.step);
    let target = all.join(&name);
    replace::rename(&unfinished.keep(), &target).with_context(failed)?;
    link(&all, "last", &name).with_context(failed)?;
    if mark == Mark::Best {
        link(&all, "best", &name).with_context(failed)?;
    }
    prune(&all, &name, keep);
    Ok(target)
}

fn write_files(dir: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let mut state = checkpoint.state.clone();
    let card = serde_json::json!({ "arch": state.arch, "classes": state.classes });
    let metadata = HashMap::from([
        ("format".to_owned(), "pt".to_owned()),
        ("alexnet-mgpu".to_owned(), card.to_string()),
    ]);
    write_tensors(&dir.join(MODEL), &checkpoint.weights, metadata)?;
    write_tensors(&dir.join(OPTIMIZER), &checkpoint.optimizer, HashMap::new())?;
    if let Some(stats) = &checkpoint.stats {
        stats.write(&dir.join(Stats::FILE))?;
    }
    let stats = checkpoint.stats.as_ref().map(|_| Stats::FILE);
    for file in [MODEL, OPTIMIZER].into_iter().chain(stats) {
        let path = dir.join(file);
        let hash = blake3::Hasher::new().update_reader(File::open(&path)?)?.finalize();
        state.sizes.insert(file.to_owned(), fs::metadata(path)?.len());
        state.hashes.insert(file.to_owned(), hash.to_hex().to_string());
    }
    let path = dir.join(STATE);
    fs::write(&path, serde_json::to_vec_pretty(&state)?)?;
    File::open(&path)?.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(())
}

/// Points `all/link` to `name`, by a rename.
fn link(all: &Path, link: &str, name: &str) -> Result<()> {
    let temporary = all.join(format!("{UNFINISHED}{link}"));
    std::os::unix::fs::symlink(name, &temporary)?;
    Ok(replace::rename(&temporary, &all.join(link))?)
}

/// The names of the links of the run in `run_dir` that lead to a checkpoint: `last`, `best`.
#[must_use]
pub fn links(run_dir: &Path) -> Vec<&'static str> {
    let leads = |link: &&str| checkpoints(run_dir).join(link).join(STATE).is_file();
    ["last", "best"].into_iter().filter(leads).collect()
}

/// The step of the checkpoint that `best` leads to in the run at `run_dir`, if it does.
#[must_use]
pub fn best_step(run_dir: &Path) -> Option<u64> {
    load_state(&checkpoints(run_dir).join("best")).ok().map(|state| state.step)
}

/// Whether the folder of the run at `run_dir` holds checkpoints of steps after `step`.
#[must_use]
pub fn has_later(run_dir: &Path, step: u64) -> bool {
    let later = |entry: io::Result<fs::DirEntry>| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        numbers_in(&name).filter(|(at, _)| *at > step)
    };
    fs::read_dir(checkpoints(run_dir)).is_ok_and(|mut entries| entries.find_map(later).is_some())
}

/// The folder of the checkpoint that `path` names: a checkpoint, or a run with a last one. Its own name, which
/// stays that of this checkpoint when a run that trains meanwhile moves its links.
#[must_use]
pub fn resolve(path: &Path) -> Option<PathBuf> {
    let last = checkpoints(path).join("last");
    let own_name = |dir: PathBuf| dir.canonicalize().ok().filter(|dir| dir.join(STATE).is_file());
    [path.to_path_buf(), last].into_iter().find_map(own_name)
}

/// The file of weights of the checkpoint that `path` names.
#[must_use]
pub fn weights_file(path: &Path) -> PathBuf {
    resolve(path).unwrap_or_else(|| path.to_path_buf()).join(MODEL)
}

/// The folder of the run whose checkpoint `path` names, if it lies where runs have theirs.
#[must_use]
pub fn run_folder(path: &Path) -> Option<PathBuf> {
    let dir = resolve(path)?;
    let all = dir.parent().filter(|all| all.ends_with("checkpoints"))?;
    all.parent().map(Path::to_path_buf)
}

/// Reads the checkpoint, or the last checkpoint of the run, at `path`.
///
/// # Errors
/// If there is none, or a file of it is not what was saved.
pub fn load(path: &Path) -> Result<Checkpoint> {
    reading(|| {
        let Model { dir, state, weights } = load_model(path)?;
        let optimizer = tensors_in(&content(&dir, OPTIMIZER, &state)?, &dir.join(OPTIMIZER))?;
        let stats = match state.sizes.contains_key(Stats::FILE) {
            true => {
                content(&dir, Stats::FILE, &state)?;
                Some(Arc::new(Stats::read(&dir.join(Stats::FILE))?))
            }
            false => None,
        };
        Ok(Checkpoint { state, weights, optimizer, stats })
    })
}

/// What `read` makes of a checkpoint; that it cannot has a code of its own.
fn reading<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    read().map_err(|error| Coded::new(Exit::Data, error).into())
}

/// What of a checkpoint computes.
pub struct Model {
    /// The checkpoint's folder, wherever `last` may lead later.
    pub dir: PathBuf,
    /// What is not a tensor.
    pub state: State,
    /// Canonical weights by name.
    pub weights: Tensors,
}

/// As [`load`], without what only a run that goes on needs.
///
/// # Errors
/// As [`load`].
pub fn load_model(path: &Path) -> Result<Model> {
    reading(|| {
        let dir = found(path)?;
        let state = state_in(&dir)?;
        let weights = tensors_in(&content(&dir, MODEL, &state)?, &dir.join(MODEL))?;
        Ok(Model { dir, state, weights })
    })
}

/// As [`resolve`], once for everything that is read.
fn found(path: &Path) -> Result<PathBuf> {
    resolve(path).with_context(|| {
        format!(
            "{} is not a checkpoint: it has no {STATE}, nor checkpoints/last; name a run's folder, \
             or one of its checkpoints",
            path.display()
        )
    })
}

/// What is in a file of a checkpoint, which is what was saved.
fn content(dir: &Path, file: &str, state: &State) -> Result<Vec<u8>> {
    let path = dir.join(file);
    let content = fs::read(&path)
        .with_context(|| format!("cannot read {}; {}", path.display(), another(dir)))?;
    if let Some(&size) = state.sizes.get(file) {
        ensure!(
            content.len() as u64 == size,
            "{} is truncated: {} bytes of {size}; {}",
            path.display(),
            content.len(),
            another(dir)
        );
    }
    if let Some(hash) = state.hashes.get(file) {
        ensure!(
            blake3::Hasher::new().update_rayon(&content).finalize().to_hex().as_str() == hash,
            "{} is damaged: it is not what was saved; {}",
            path.display(),
            another(dir)
        );
    }
    Ok(content)
}

/// What to do where the checkpoint in `dir` is damaged: the latest one beside it is named.
fn another(dir: &Path) -> String {
    let all = dir.parent().unwrap_or(dir);
    let beside = names(all).into_iter().filter(|name| dir.file_name() != Some(name.as_ref()));
    let latest = beside.filter_map(|name| Some((numbers_in(&name)?, name))).max();
    latest.map_or_else(
        || "no other checkpoint lies beside it".to_owned(),
        |(_, name)| format!("use another one, such as {}", shell::word(&all.join(name))),
    )
}

/// Reads what is not a tensor of the checkpoint at `path`.
///
/// # Errors
/// As [`load`].
pub fn load_state(path: &Path) -> Result<State> {
    reading(|| state_in(&found(path)?))
}

fn state_in(dir: &Path) -> Result<State> {
    let file = dir.join(STATE);
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let state: State = serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged; {}", file.display(), another(dir)))?;
    ensure!(
        state.format == FORMAT,
        "{} has format {}, and this program reads {FORMAT}; use the version that wrote it",
        file.display(),
        state.format
    );
    Ok(state)
}

/// Makes sure that the classes of a checkpoint are those of the images, in the same order. `advice` is for the
/// message.
///
/// # Errors
/// If they are not: the first that differs is named, as a mistake of usage.
pub fn check_classes(checkpoint: &[String], images: &[String], advice: &str) -> Result<()> {
    let most = checkpoint.len().max(images.len());
    let Some(at) = (0..most).find(|&i| checkpoint.get(i) != images.get(i)) else { return Ok(()) };
    let name = |classes: &[String]| classes.get(at).map_or("none".into(), |c| format!("{c:?}"));
    let error = anyhow!(
        "the checkpoint's classes ({}) are not those of the images ({}): class {} is {} there and {} \
         here; {advice}",
        checkpoint.len(),
        images.len(),
        at + 1,
        name(checkpoint),
        name(images)
    );
    Err(Coded::new(Exit::Usage, error).into())
}

#[cfg(test)]
mod tests;
