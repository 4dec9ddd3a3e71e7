//! One shard on its way to disk: image by image under a hidden name, then forced to disk, hashed and
//! renamed.
//!
//! A shard of pixels is a safetensors file (see [`crate::data::packed`]), one of JPEG files a tar of
//! `KEY.jpg` and `KEY.cls`, where KEY is the image's index in the source. No times or owners are
//! written, so equal images make equal files.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rayon::ThreadPool;
use serde_json::json;

use super::{check, unwritable};
use crate::data::Split;
use crate::data::moments::Moments;
use crate::data::packed::{BadImage, Format, Manifest, Notes, RecordsContent, Shard};
use crate::replace::{self, UNFINISHED};

/// Small images are gathered to writes of this size.
const BUFFER_BYTES: usize = 1 << 20;

/// A shard being written.
pub(super) struct ShardWriter {
    path: PathBuf,
    unfinished: Unfinished,
    name: String,
    range: Range<usize>,
    shard: Shard,
    form: Form,
}

/// A file that is removed unless it gets another name.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Not there any more if it was finished.
        let _ = fs::remove_file(&self.0);
    }
}

enum Form {
    Records(Box<Records>),
    Tar(Box<tar::Builder<BufWriter<File>>>),
}

/// A safetensors file whose front is written last.
struct Records {
    file: BufWriter<File>,
    size: u32,
    labels: Vec<i32>,
    images_start: usize,
    notes: Notes,
}

impl ShardWriter {
    /// Begins shard `index` of a split.
    pub(super) fn create(
        dir: &Path,
        manifest: &Manifest,
        split: Split,
        index: usize,
    ) -> Result<Self> {
        let (settings, part) = (&manifest.settings, manifest.part(split));
        let (name, range) = (part.shard_name(split, settings, index), part.range(settings, index));
        let unfinished = Unfinished(dir.join(format!("{UNFINISHED}{name}")));
        let create = || -> io::Result<Form> {
            let file = BufWriter::with_capacity(BUFFER_BYTES, File::create(&unfinished.0)?);
            Ok(match settings.format {
                Format::Jpeg => Form::Tar(Box::new(tar::Builder::new(file))),
                Format::U8 => {
                    let records = Records::new(file, settings.size, range.len(), notes(manifest));
                    Form::Records(Box::new(records?))
                }
            })
        };
        let form = create().with_context(|| unwritable(&unfinished.0))?;
        Ok(Self { path: dir.join(&name), unfinished, name, range, shard: Shard::default(), form })
    }

    /// The images of the source that belong to it.
    pub(super) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Appends image `index` of the source.
    pub(super) fn push(
        &mut self,
        index: usize,
        label: usize,
        bytes: &[u8],
        moments: &Moments,
    ) -> Result<()> {
        let pushed = match &mut self.form {
            Form::Records(records) => records.push(label, bytes),
            Form::Tar(tar) => {
                let label = label.to_string();
                append(tar, &format!("{index:08}.jpg"), bytes)
                    .and_then(|()| append(tar, &format!("{index:08}.cls"), label.as_bytes()))
            }
        };
        pushed.with_context(|| unwritable(&self.unfinished.0))?;
        self.shard.num_images += 1;
        Ok(self.shard.moments.add(moments)?)
    }

    /// Notes that an image is not in it.
    pub(super) fn leave_out(&mut self, image: BadImage) {
        self.shard.bad.push(image);
    }

    /// Makes it a file of its name, on disk; `pool` hashes it.
    pub(super) fn finish(mut self, pool: &ThreadPool) -> Result<(String, Shard)> {
        let Self { path, range, shard, .. } = &self;
        ensure!(
            shard.num_images + shard.bad.len() == range.len(),
            "{} has not all images of its range",
            path.display()
        );
        self.close(pool).with_context(|| unwritable(&self.path))?;
        Ok((self.name, self.shard))
    }

    fn close(&mut self, pool: &ThreadPool) -> io::Result<()> {
        let file = match &mut self.form {
            Form::Records(records) => records.close(&self.shard)?,
            Form::Tar(tar) => {
                tar.finish()?;
                flushed(tar.get_mut())?
            }
        };
        file.sync_all()?;
        self.shard.num_bytes = file.metadata()?.len();
        self.shard.blake3 = check::hash(&self.unfinished.0, pool)?;
        replace::rename(&self.unfinished.0, &self.path)
    }
}

impl Records {
    fn new(
        mut file: BufWriter<File>,
        size: u32,
        num_images: usize,
        notes: Notes,
    ) -> io::Result<Self> {
        let images_start = RecordsContent { num_images, size }.images_start(&notes);
        file.seek(SeekFrom::Start(images_start as u64))?;
        Ok(Self { file, size, labels: Vec::with_capacity(num_images), images_start, notes })
    }

    fn push(&mut self, label: usize, pixels: &[u8]) -> io::Result<()> {
        self.labels.push(i32::try_from(label).map_err(io::Error::other)?);
        self.file.write_all(pixels)
    }

    /// Writes what stands before the images.
    fn close(&mut self, shard: &Shard) -> io::Result<&File> {
        self.notes.insert("shard".into(), sums(shard));
        let content = RecordsContent { num_images: self.labels.len(), size: self.size };
        let front = content.front(&self.notes, &self.labels, self.images_start);
        let front = front.ok_or_else(|| io::Error::other("the header outgrew its room"))?;
        let file = flushed(&mut self.file)?;
        file.write_all_at(&front, 0)?;
        Ok(file)
    }
}

fn flushed(file: &mut BufWriter<File>) -> io::Result<&File> {
    file.flush()?;
    Ok(file.get_ref())
}

fn append(tar: &mut tar::Builder<BufWriter<File>>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    tar.append_data(&mut header, name, bytes)
}

/// What every shard of pixels says about the pack, so that a lone file can be understood.
fn notes(manifest: &Manifest) -> Notes {
    let Manifest { settings, classes, class_names, source, .. } = manifest;
    let source = json!({ "kind": source.kind, "fingerprint": source.fingerprint });
    let pixels = json!({ "size": settings.size, "filter": manifest.filter });
    Notes::from([
        // The mark of tensors laid out as PyTorch has them, which some readers ask for.
        ("format".into(), "pt".into()),
        ("made_by".into(), format!("alexnet-mgpu pack {}", manifest.program)),
        ("source".into(), source.to_string()),
        ("pixels".into(), pixels.to_string()),
        ("bad_images".into(), manifest.bad_images.clone()),
        ("classes".into(), json!(classes).to_string()),
        ("class_names".into(), json!(class_names).to_string()),
    ])
}

/// What a shard of pixels says about itself. Its sums and those of the other shards add up to the
/// split's, which are known only when the last shard is made.
fn sums(shard: &Shard) -> String {
    let sums = json!({
        "num_images": shard.num_images,
        "num_bad_images": shard.bad.len(),
        "moments": shard.moments,
        "statistics": shard.moments.statistics(),
    });
    sums.to_string()
}
