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

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::canonical::Tensors;
use crate::data::Stats;
use crate::elements::bytes;
use crate::exit::{Coded, Exit};
use crate::replace::{self, UNFINISHED};
use crate::schedule::PlateauState;
use crate::shell;

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

fn dtype(kind: Kind) -> Result<Dtype> {
    Ok(match kind {
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        Kind::BFloat16 => Dtype::BF16,
        other => bail!("tensors of kind {other:?} are not saved"),
    })
}

fn kind(dtype: Dtype) -> Result<Kind> {
    Ok(match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F16 => Kind::Half,
        Dtype::I64 => Kind::Int64,
        other => bail!("tensors of type {other:?} are not weights"),
    })
}

fn write_tensors(path: &Path, tensors: &Tensors, metadata: HashMap<String, String>) -> Result<()> {
    let contiguous: Vec<_> = tensors.iter().map(|(name, x)| (name, x.contiguous())).collect();
    let views = contiguous
        .iter()
        .map(|(name, x)| {
            let shape = x.size().into_iter().map(|size| size as usize).collect();
            Ok((name.as_str(), TensorView::new(dtype(x.kind())?, shape, bytes(x))?))
        })
        .collect::<Result<Vec<_>>>()?;
    // The library's file would be its owner's alone.
    let permissions = File::create(path)?.metadata()?.permissions();
    safetensors::serialize_to_file(views, Some(metadata), path)?;
    fs::set_permissions(path, permissions)?;
    File::open(path)?.sync_all()?;
    Ok(())
}

/// The tensors of a safetensors file.
///
/// # Errors
/// If the file is missing, truncated, or not safetensors.
pub fn read_tensors(path: &Path) -> Result<Tensors> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    tensors_in(&content, path)
}

/// The tensors of a safetensors file of this content; its path is for messages.
fn tensors_in(content: &[u8], path: &Path) -> Result<Tensors> {
    let damaged = || format!("{} is damaged or not a safetensors file", path.display());
    let file = SafeTensors::deserialize(content).with_context(damaged)?;
    file.iter()
        .map(|(name, view)| {
            let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
            let x = Tensor::f_from_data_size(view.data(), &shape, kind(view.dtype())?)?;
            Ok((name.to_owned(), x))
        })
        .collect()
}

fn checkpoints(run_dir: &Path) -> PathBuf {
    run_dir.join("checkpoints")
}

/// Which checkpoints stay beside a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How many of the latest, the new one among them; 0 counts as 1. The best one stays besides.
    pub last: usize,
    /// The step of the one before, or of the one that the run went on from; 0 for none. Others of later
    /// steps are of a history that is given up, and none of the latest.
    pub previous: u64,
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

/// The first of `step-00000007`, `step-00000007-2`, … that is not there.
fn free_name(all: &Path, step: u64) -> String {
    let mut name = format!("step-{step:08}");
    let mut number = 1_u64;
    while all.join(&name).exists() {
        number += 1;
        name = format!("step-{step:08}-{number}");
    }
    name
}

/// The step of a checkpoint's folder of this name, and which of that step it is. Other names are not ours.
fn numbers_in(name: &str) -> Option<(u64, u64)> {
    let numbers = name.strip_prefix("step-")?;
    let (step, number) = numbers.split_once('-').unwrap_or((numbers, "1"));
    Some((step.parse().ok()?, number.parse().ok()?))
}

/// Removes what a process that was killed had begun to write, or to remove, which may be large.
fn remove_leftovers(all: &Path) {
    let names = names(all).into_iter().filter(|name| name.starts_with(UNFINISHED));
    for path in names.map(|name| all.join(name)) {
        let removed = match path.is_dir() && !path.is_symlink() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        if let Err(error) = removed {
            warn_of(&path, &error);
        }
    }
}

/// What is in the folder. One that cannot be read is a warning, and no reason to end a run.
fn names(all: &Path) -> Vec<String> {
    let entries = fs::read_dir(all).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    match entries {
        Ok(entries) => {
            entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect()
        }
        Err(error) => {
            tracing::warn!(
                "cannot see which checkpoints in {} are to go: {error}; check its permissions",
                all.display()
            );
            Vec::new()
        }
    }
}

fn warn_of(path: &Path, error: &io::Error) {
    tracing::warn!(
        "cannot remove {}, which is not kept: {error}; the run goes on; free its space by hand",
        path.display()
    );
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

/// Removes what `keep` does not name beside the checkpoint `saved`, which the links have reached.
fn prune(all: &Path, saved: &str, keep: Keep) {
    let best = fs::read_link(all.join("best")).ok();
    let numbered = |name: String| Some((numbers_in(&name)?, name));
    let others = names(all).into_iter().filter(|name| name != saved).filter_map(numbered);
    let mut others: Vec<_> = others.collect();
    others.sort();
    let (mut history, mut going) = (BTreeMap::new(), Vec::new());
    for ((step, _), name) in others {
        match step <= keep.previous {
            // In the place of an earlier one of the same step.
            true => going.extend(history.insert(step, name)),
            false => going.push(name),
        }
    }
    let num_old = (history.len() + 1).saturating_sub(keep.last.max(1));
    going.extend(history.into_values().take(num_old));
    for name in going.into_iter().filter(|name| best.as_deref() != Some(Path::new(name))) {
        let (path, hidden) = (all.join(&name), all.join(format!("{UNFINISHED}{name}")));
        // A kill half-way leaves nothing that looks like a checkpoint.
        let removed = fs::rename(&path, &hidden).and_then(|()| fs::remove_dir_all(&hidden));
        if let Err(error) = removed {
            warn_of(&path, &error);
        }
    }
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
