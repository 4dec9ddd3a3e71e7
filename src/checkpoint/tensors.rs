//! Tensors by name in safetensors files, on disk before the writer returns.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, bail};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Kind, Tensor};

use crate::canonical::Tensors;
use crate::elements::bytes;

/// Writes a file of tensors, and what `metadata` says of them.
pub(super) fn write_tensors(
    path: &Path,
    tensors: &Tensors,
    metadata: HashMap<String, String>,
) -> Result<()> {
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
pub(super) fn tensors_in(content: &[u8], path: &Path) -> Result<Tensors> {
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
