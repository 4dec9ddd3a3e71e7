//! `alexnet-mgpu pack`: decodes and scales an image set once, so that training does not have to.
//!
//! A pack is a pure function of the source and the settings: it is cut into shards by the order of
//! the source, and neither the number of workers nor how often packing was interrupted changes a
//! byte. A shard is written under a temporary name, forced to disk, renamed and only then listed in
//! the manifest, so what the manifest lists is whole whenever the process ends. Reading packs is the
//! business of [`crate::data::packed`].

mod check;
mod destination;
mod making;
mod origin;
mod resume;
mod writer;

use std::path::Path;
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Result, anyhow, bail};
use rayon::ThreadPool;

use crate::cli::PackArgs;
use crate::data::packed::{BadImage, Format, Manifest, Part, Settings, Shard, State};
use crate::data::{self, BadImages, DataError, Images, Source, Split};
use crate::exit::{Coded, Exit};
use crate::feed;
use crate::progress::{Count, Screen};
use crate::stop::{self, Go, Stop};
use destination::Destination;
use making::Workshop;
use writer::ShardWriter;

/// What a shard of pixels takes on disk, about: large enough for a disk to be fast, small enough to
/// be made again after a kill.
const SHARD_BYTES: usize = 1 << 30;
/// JPEG files to a shard: about 100 MB at 256 pixels.
const SHARD_FILES: usize = 4000;
/// Where photographs of 256 pixels take about a tenth of the bytes of their pixels.
const QUALITY: u8 = 90;
const SPLITS: [Split; 2] = [Split::Train, Split::Test];

/// Packs an image set, finishes a pack, or checks one.
///
/// # Errors
/// If the source cannot be read, the destination cannot be written or holds something else, or too
/// many images are bad.
pub fn run(args: &PackArgs, screen: &Screen) -> Result<Exit> {
    let notice = "stopping; finished shards stay; press Ctrl-C again to leave now";
    let exit = run_until(args, screen, &Stop::default(), notice)?;
    if exit == Exit::Saved {
        tracing::warn!("the same command goes on from there");
    }
    Ok(exit)
}

/// As [`run`], until `stop` is asked for; once packing has begun signals do so, and the log says `notice`.
///
/// # Errors
/// As [`run`].
pub fn run_until(
    args: &PackArgs,
    screen: &Screen,
    stop: &Stop,
    notice: &'static str,
) -> Result<Exit> {
    if let Some(dir) = &args.verify {
        let pool = data::pool(feed::num_workers(args.workers))?;
        return check::verify(dir, &pool, screen).map(|()| Exit::Ok);
    }
    let (Some(src), Some(dst)) = (&args.src, &args.dst) else {
        bail!(Coded::new(Exit::Usage, anyhow!("pack needs SRC and DST")));
    };
    let settings = settings(args)?;
    let (train, test) = data::open_both(src)?;
    let wanted = origin::manifest(settings, data::kind(src)?, &*train, &*test);
    let pool = data::pool(feed::num_workers(args.workers))?;
    let workshop = Workshop::new(&pool, &wanted.settings);
    let mut destination = Destination::claim(dst, wanted)?;
    let sources = [train, test];
    resume::drop_damaged(&mut destination, &sources, &pool, screen)?;
    destination.write_class_list()?;
    if destination.manifest.state == State::Complete {
        let contents = contents_of(&destination.manifest)?;
        tracing::info!("{} is complete and whole: {contents}", dst.display());
        return Ok(Exit::Ok);
    }
    stop::install_signals_saying(stop.clone(), notice)?;
    let (before, total) = progress(&destination);
    tracing::info!("{}", announcement(&destination, before, total));
    let packing = Packing {
        pool: &pool,
        workshop,
        stop: stop.clone(),
        count: Count::new(screen, "packed", before as u64, total as u64),
        max_bad_fraction: args.max_bad_fraction,
    };
    match packing.run(&mut destination, &sources)? {
        Go::Continue => {
            let contents = contents_of(&destination.manifest)?;
            tracing::info!("packed {}: {contents}", dst.display());
            Ok(Exit::Ok)
        }
        Go::Stop => {
            let (done, total) = progress(&destination);
            tracing::warn!("stopped with {done} of {total} images in finished shards");
            Ok(Exit::Saved)
        }
    }
}

fn settings(args: &PackArgs) -> Result<Settings> {
    let quality = match (args.format, args.quality) {
        (Format::Jpeg, quality) => Some(quality.unwrap_or(QUALITY)),
        (Format::U8, None) => None,
        (Format::U8, Some(_)) => bail!(Coded::new(
            Exit::Usage,
            anyhow!("--quality is that of JPEG files; leave it out, or add --format jpeg")
        )),
    };
    let mut settings = Settings { format: args.format, size: args.size, quality, shard_images: 0 };
    settings.shard_images = args.shard_images.unwrap_or_else(|| match args.format {
        Format::U8 => (SHARD_BYTES / settings.image_bytes()).max(1),
        Format::Jpeg => SHARD_FILES,
    });
    Ok(settings)
}

/// Source images in finished shards, and in all.
fn progress(destination: &Destination) -> (usize, usize) {
    let manifest = &destination.manifest;
    let in_shards = |part: &Part| {
        part.shards.values().map(|shard| shard.num_images + shard.bad.len()).sum::<usize>()
    };
    let (train, val) = (&manifest.train, &manifest.val);
    (in_shards(train) + in_shards(val), train.num_source_images + val.num_source_images)
}

fn announcement(destination: &Destination, before: usize, total: usize) -> String {
    let Settings { format, size, .. } = destination.manifest.settings;
    let what = format!("{total} images to {size} x {size} {format}");
    match before {
        0 => format!("packing {what} in {}", destination.dir().display()),
        _ => format!("going on with {what} in {}: {before} are there", destination.dir().display()),
    }
}

/// `1200 training and 300 test images, 2 left out`.
fn contents_of(manifest: &Manifest) -> Result<String> {
    let Manifest { train, val, .. } = manifest;
    let num = |part: &Part| part.num_images().map_err(|problem| anyhow!(problem));
    let left_out = train.shards.values().chain(val.shards.values()).map(|shard| shard.bad.len());
    let left_out = match left_out.sum::<usize>() {
        0 => String::new(),
        num => format!(", {num} left out because they cannot be read"),
    };
    Ok(format!("{} training and {} test images{left_out}", num(train)?, num(val)?))
}

/// One run of the command.
struct Packing<'a> {
    /// Makes images and hashes files.
    pool: &'a ThreadPool,
    workshop: Workshop<'a>,
    stop: Stop,
    count: Count,
    max_bad_fraction: f64,
}

/// A shard that is being forced to disk.
type Finishing<'scope> = Option<ScopedJoinHandle<'scope, Result<(String, Shard)>>>;

impl Packing<'_> {
    fn run(mut self, destination: &mut Destination, sources: &[Images; 2]) -> Result<Go> {
        for (split, source) in SPLITS.into_iter().zip(sources) {
            if self.split(destination, split, &**source)? == Go::Stop {
                return Ok(Go::Stop);
            }
        }
        destination.complete()?;
        Ok(Go::Continue)
    }

    /// Makes the missing shards of a split. While one is forced to disk the next is made.
    fn split(&mut self, to: &mut Destination, split: Split, source: &dyn Source) -> Result<Go> {
        let mut bad = to.manifest.part(split).bad_images();
        let (missing, pool) = (to.missing(split), self.pool);
        thread::scope(|scope| {
            let mut finishing: Finishing<'_> = None;
            for index in missing {
                let mut writer = ShardWriter::create(to.dir(), &to.manifest, split, index)?;
                let made = self.shard(&mut writer, source, &mut bad);
                if let Some(before) = finishing.take() {
                    to.record(split, finished(before)?)?;
                }
                if made? == Go::Stop {
                    return Ok(Go::Stop);
                }
                finishing = Some(scope.spawn(move || writer.finish(pool)));
            }
            if let Some(last) = finishing {
                to.record(split, finished(last)?)?;
            }
            Ok(Go::Continue)
        })
    }

    /// Makes the images of one shard. `bad` are those of the split, this shard's are added.
    fn shard(
        &mut self,
        writer: &mut ShardWriter,
        source: &dyn Source,
        bad: &mut Vec<BadImage>,
    ) -> Result<Go> {
        let Self { workshop, stop, count, max_bad_fraction, .. } = self;
        let limit = BadImages::tolerated(source.len(), *max_bad_fraction);
        workshop.make(source, writer.range(), |first, slots| {
            if stop.signal().is_some() {
                return Ok(Go::Stop);
            }
            for (index, slot) in (first..).zip(slots) {
                match &slot.made {
                    Ok(moments) => {
                        writer.push(index, source.label(index), &slot.bytes, moments)?;
                    }
                    Err(reason) => {
                        let image =
                            BadImage { index, name: source.name(index), reason: reason.clone() };
                        tracing::warn!("{}: {reason} (image left out)", image.name);
                        bad.push(image.clone());
                        writer.leave_out(image);
                    }
                }
            }
            if bad.len() > limit {
                return Err(too_many(bad, source.len(), limit).into());
            }
            count.advance(slots.len() as u64);
            Ok(Go::Continue)
        })
    }
}

fn too_many(bad: &[BadImage], len: usize, limit: usize) -> DataError {
    let first = bad.iter().min_by_key(|image| image.index);
    let (first, reason) =
        first.map(|image| (image.name.clone(), image.reason.clone())).unwrap_or_default();
    DataError::TooManyBad { count: bad.len(), len, limit, first, reason }
}

fn finished(thread: ScopedJoinHandle<'_, Result<(String, Shard)>>) -> Result<(String, Shard)> {
    thread.join().map_err(|_| anyhow!("the thread that writes a shard panicked"))?
}

/// What to say when a file of the pack cannot be written.
fn unwritable(path: &Path) -> String {
    format!(
        "cannot write {}; free some space or check permissions, and run the same command again: it \
         goes on from here",
        path.display()
    )
}

/// Fails with the exit code of a wrong command line.
fn refuse(path: &Path, problem: &str) -> anyhow::Error {
    Coded::new(Exit::Usage, anyhow!("{}: {problem}", path.display())).into()
}
