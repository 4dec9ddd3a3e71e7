//! Runs on disk: written whole or not at all, read back bit for bit.
//!
//! A checkpoint is a folder `checkpoints/step-NNNNNNNN` with the canonical weights and the optimizer's
//! state as safetensors and one JSON file, and the training images' statistics if there is a mean
//! image. It appears by a rename, after its bytes are on disk, so that a full disk or a kill leaves the
//! previous one as it was. The links `last` and `best` point to checkpoints. The module knows nothing
//! of ranks.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::canonical::Tensors;
use crate::data::Stats;
use crate::elements::bytes;
use crate::replace::{self, UNFINISHED};
use crate::schedule::PlateauState;

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

/// Writes `checkpoint`, points `last` (and `best`) to it, and removes all but the last `keep_last` and
/// the best. The folder written.
///
/// # Errors
/// If it cannot be written; what was there before is untouched.
pub fn save(
    run_dir: &Path,
    checkpoint: &Checkpoint,
    keep_last: usize,
    mark: Mark,
) -> Result<PathBuf> {
    let all = checkpoints(run_dir);
    let name = format!("step-{:08}", checkpoint.state.step);
    let failed = || {
        format!(
            "cannot save a checkpoint in {}; the previous ones are untouched. Free some space or \
             choose another --output-dir, then continue with --resume auto",
            all.display()
        )
    };
    fs::create_dir_all(&all).with_context(failed)?;
    remove_leftovers(&all).with_context(failed)?;
    let unfinished =
        tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&all).with_context(failed)?;
    write_files(unfinished.path(), checkpoint).with_context(failed)?;
    let target = all.join(&name);
    put_in_place(&unfinished.keep(), &target).with_context(failed)?;
    link(&all, "last", &name).with_context(failed)?;
    if mark == Mark::Best {
        link(&all, "best", &name).with_context(failed)?;
    }
    prune(&all, keep_last)?;
    Ok(target)
}

/// Renames a finished folder to `target`. One that has this name, of a step that was made again, goes once
/// the new one is there.
fn put_in_place(finished: &Path, target: &Path) -> io::Result<()> {
    if !target.exists() {
        return replace::rename(finished, target);
    }
    let old = target.with_file_name(format!("{UNFINISHED}replaced"));
    fs::rename(target, &old)?;
    if let Err(error) = replace::rename(finished, target) {
        fs::rename(&old, target)?;
        return Err(error);
    }
    fs::remove_dir_all(old)
}

/// Removes what a process that was killed had begun to write, which may be large.
fn remove_leftovers(all: &Path) -> io::Result<()> {
    for entry in fs::read_dir(all)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
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

fn prune(all: &Path, keep_last: usize) -> Result<()> {
    let best = fs::read_link(all.join("best")).ok();
    let mut names: Vec<_> = fs::read_dir(all)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("step-"))
        .collect();
    names.sort();
    let num_old = names.len().saturating_sub(keep_last.max(1));
    for name in &names[..num_old] {
        if best.as_deref() != Some(Path::new(name)) {
            fs::remove_dir_all(all.join(name))?;
        }
    }
    Ok(())
}

/// The folder of the checkpoint that `path` names: a checkpoint, or a run with a last one.
#[must_use]
pub fn resolve(path: &Path) -> Option<PathBuf> {
    let last = checkpoints(path).join("last");
    [path.to_path_buf(), last].into_iter().find(|dir| dir.join(STATE).is_file())
}

/// The folder of the run whose checkpoint `path` names, if it lies where runs have theirs.
#[must_use]
pub fn run_folder(path: &Path) -> Option<PathBuf> {
    let dir = resolve(path)?.canonicalize().ok()?;
    let all = dir.parent().filter(|all| all.ends_with("checkpoints"))?;
    all.parent().map(Path::to_path_buf)
}

/// Reads the checkpoint, or the last checkpoint of the run, at `path`.
///
/// # Errors
/// If there is none, or a file of it is not what was saved.
pub fn load(path: &Path) -> Result<Checkpoint> {
    let Model { state, weights } = load_model(path)?;
    let dir = found(path)?;
    let optimizer = tensors_in(&content(&dir, OPTIMIZER, &state)?, &dir.join(OPTIMIZER))?;
    let stats = match state.sizes.contains_key(Stats::FILE) {
        true => {
            content(&dir, Stats::FILE, &state)?;
            Some(Arc::new(Stats::read(&dir.join(Stats::FILE))?))
        }
        false => None,
    };
    Ok(Checkpoint { state, weights, optimizer, stats })
}

/// What of a checkpoint computes.
pub struct Model {
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
    let state = load_state(path)?;
    let dir = found(path)?;
    let weights = tensors_in(&content(&dir, MODEL, &state)?, &dir.join(MODEL))?;
    Ok(Model { state, weights })
}

fn found(path: &Path) -> Result<PathBuf> {
    resolve(path).context("the checkpoint went away while it was read")
}

/// What is in a file of a checkpoint, which is what was saved.
fn content(dir: &Path, file: &str, state: &State) -> Result<Vec<u8>> {
    let path = dir.join(file);
    let content = fs::read(&path)
        .with_context(|| format!("cannot read {}; use a checkpoint beside it", path.display()))?;
    if let Some(&size) = state.sizes.get(file) {
        ensure!(
            content.len() as u64 == size,
            "{} is truncated: {} bytes of {size}; use a checkpoint beside it",
            path.display(),
            content.len()
        );
    }
    if let Some(hash) = state.hashes.get(file) {
        ensure!(
            blake3::Hasher::new().update_rayon(&content).finalize().to_hex().as_str() == hash,
            "{} is damaged: it is not what was saved; use a checkpoint beside it",
            path.display()
        );
    }
    Ok(content)
}

/// Reads what is not a tensor of the checkpoint at `path`.
///
/// # Errors
/// As [`load`].
pub fn load_state(path: &Path) -> Result<State> {
    let Some(dir) = resolve(path) else {
        bail!(
            "{} is not a checkpoint: it has no {STATE}, nor checkpoints/last; name a run's folder, \
             or one of its checkpoints",
            path.display()
        );
    };
    let file = dir.join(STATE);
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let state: State = serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged; use another checkpoint", file.display()))?;
    ensure!(
        state.format == FORMAT,
        "{} has format {}, and this program reads {FORMAT}; use the version that wrote it",
        file.display(),
        state.format
    );
    Ok(state)
}

#[cfg(test)]
mod tests;
