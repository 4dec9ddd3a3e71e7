//! `--init`: weights of another network as a starting point.
//!
//! Understands this program's names and torchvision's. What does not fit the new head keeps its initial
//! values; what was loaded, replaced and left over is said, because silence here costs days.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail, ensure};

use crate::canonical::Tensors;
use crate::checkpoint::read_tensors;
use crate::params::ParamSpec;

/// The head: the one layer whose shape depends on the number of classes.
const HEAD: &str = "fc8.";

/// torchvision's modules of `alexnet`, and this program's layers.
const TORCHVISION: [(&str, &str); 8] = [
    ("features.0", "conv1"),
    ("features.3", "conv2"),
    ("features.6", "conv3"),
    ("features.8", "conv4"),
    ("features.10", "conv5"),
    ("classifier.1", "fc6"),
    ("classifier.4", "fc7"),
    ("classifier.6", "fc8"),
];

/// What came of a file of weights.
pub struct Pretrained {
    /// Canonical tensors that fit.
    pub weights: Tensors,
    /// Names of parameters that keep their initial values because their shape differs.
    pub replaced: Vec<String>,
    /// Names of parameters the file does not have.
    pub missing: Vec<String>,
    /// Names in the file that mean nothing to this network.
    pub left_over: Vec<String>,
}

/// The canonical name of a tensor in a file.
fn canonical_name(name: &str) -> String {
    let name = name.trim_start_matches("module.").trim_start_matches("model.");
    let renamed = TORCHVISION.iter().find_map(|(theirs, ours)| {
        let rest = name.strip_prefix(theirs)?.strip_prefix('.')?;
        Some(format!("{ours}.{rest}"))
    });
    renamed.unwrap_or_else(|| name.to_owned())
}

/// Reads the tensors of `path` that fit the parameters `specs` of a whole network.
///
/// # Errors
/// If the file cannot be read, nothing in it fits, or a tensor other than the head has another shape.
pub fn read(path: &Path, specs: &[ParamSpec]) -> Result<Pretrained> {
    let file = read_tensors(path)?;
    let mut found: BTreeMap<String, _> = BTreeMap::new();
    let mut result = Pretrained {
        weights: Tensors::new(),
        replaced: Vec::new(),
        missing: Vec::new(),
        left_over: Vec::new(),
    };
    for (name, tensor) in file {
        let canonical = canonical_name(&name);
        if !specs.iter().any(|spec| spec.name == canonical) {
            result.left_over.push(name);
            continue;
        }
        if let Some((first, _)) = found.insert(canonical.clone(), (name.clone(), tensor)) {
            bail!(
                "{}: holds {canonical} twice, as {first} and as {name}; remove one of them from the file",
                path.display()
            );
        }
    }
    for spec in specs {
        let Some((_, tensor)) = found.remove(&spec.name) else {
            result.missing.push(spec.name.clone());
            continue;
        };
        if tensor.size() == spec.shape {
            result.weights.insert(spec.name.clone(), tensor);
            continue;
        }
        ensure!(
            spec.name.starts_with(HEAD),
            "{}: {} has shape {:?} there and {:?} here; choose the architecture the file is of \
             with --arch",
            path.display(),
            spec.name,
            tensor.size(),
            spec.shape
        );
        result.replaced.push(spec.name.clone());
    }
    if result.weights.is_empty() {
        let held = match (result.replaced.as_slice(), result.left_over.as_slice()) {
            ([], []) => "nothing".into(),
            ([], others) => others.join(", "),
            (head, []) => format!("{} for another number of classes", head.join(", ")),
            (head, others) => {
                format!("{} for another number of classes, {}", head.join(", "), others.join(", "))
            }
        };
        bail!(
            "{} has no weights that this network can start from: it holds {held}; names such as conv1.weight or \
             features.0.weight were expected",
            path.display()
        );
    }
    Ok(result)
}

impl Pretrained {
    /// What was loaded and what was not, in a few lines.
    #[must_use]
    pub fn describe(&self) -> String {
        let names: Vec<_> = self.weights.keys().map(String::as_str).collect();
        let mut text = format!("loaded {} tensors: {}", names.len(), names.join(", "));
        for (what, names) in [
            ("replaced by initial values, for another number of classes", &self.replaced),
            ("not in the file, kept at initial values", &self.missing),
            ("left over in the file", &self.left_over),
        ] {
            if !names.is_empty() {
                text.push_str(&format!("\n{what}: {}", names.join(", ")));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::arch::Architecture;
    use crate::net::build::{Plan, Site};
    use tch::{Device, Kind, Tensor};

    fn specs(classes: i64) -> Vec<ParamSpec> {
        let arch = Architecture::by_name("alexnet-owt", classes, 0.5).expect("known");
        Plan::new(&arch, Site::WHOLE).expect("one device").params
    }

    /// A file with torchvision's names for the given layers, and a stranger.
    fn file(dir: &Path, layers: &[(&str, &str)]) -> std::path::PathBuf {
        let specs = specs(1000);
        let mut tensors: Vec<_> = Vec::new();
        for (theirs, ours) in layers {
            for part in ["weight", "bias"] {
                let spec = specs.iter().find(|s| s.name == format!("{ours}.{part}"));
                let shape = &spec.expect("a layer of the network").shape;
                let x = Tensor::ones(&shape[..], (Kind::Float, Device::Cpu));
                tensors.push((format!("module.{theirs}.{part}"), x));
            }
        }
        tensors.push(("num_batches".to_owned(), Tensor::from_slice(&[1.0f32])));
        let path = dir.join("weights.safetensors");
        Tensor::write_safetensors(&tensors, &path).expect("writable");
        path
    }

    #[test]
    fn torchvisions_names_are_understood_and_the_head_is_replaced() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = file(dir.path(), &[TORCHVISION[0], TORCHVISION[7]]);
        let read = read(&path, &specs(10)).expect("conv1 fits");
        assert_eq!(read.weights.keys().collect::<Vec<_>>(), ["conv1.bias", "conv1.weight"]);
        assert_eq!(read.replaced, ["fc8.weight", "fc8.bias"]);
        assert_eq!(read.left_over, ["num_batches"]);
        assert_eq!(read.missing.len(), 12);
    }

    #[test]
    fn a_file_without_weights_of_the_network_is_refused_with_its_names() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let error = read(&file(dir.path(), &[]), &specs(10)).err().expect("nothing fits");
        assert!(error.to_string().contains("it holds num_batches;"), "{error}");
    }

    #[test]
    fn a_file_with_nothing_but_a_head_of_other_classes_is_refused_as_that() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("head.safetensors");
        let bias = Tensor::ones([1000], (Kind::Float, Device::Cpu));
        Tensor::write_safetensors(&[("fc8.bias", bias)], &path).expect("writable");
        let error = read(&path, &specs(10)).err().expect("nothing fits");
        let held = "it holds fc8.bias for another number of classes;";
        assert!(error.to_string().contains(held), "{error}");
    }

    #[test]
    fn two_tensors_of_one_parameter_are_refused_with_both_names() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("twice.safetensors");
        let bias = || Tensor::ones([64], (Kind::Float, Device::Cpu));
        let names = ["conv1.bias", "features.0.bias"].map(|name| (name, bias()));
        Tensor::write_safetensors(&names, &path).expect("writable");
        let error = read(&path, &specs(10)).err().expect("which is it?").to_string();
        for part in ["conv1.bias twice", "as features.0.bias", "as conv1.bias"] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }
}
