//! What of an earlier run can be kept.

use anyhow::Result;
use rayon::ThreadPool;

use super::destination::Destination;
use super::{SPLITS, check};
use crate::data::packed::{Shard, Squarer};
use crate::data::{Images, Source};
use crate::progress::{Count, Screen};

/// Takes off the list what is damaged or could now be made better: a shard that lacks an image which
/// can be read by now.
pub(super) fn drop_damaged(
    destination: &mut Destination,
    sources: &[Images; 2],
    pool: &ThreadPool,
    screen: &Screen,
) -> Result<()> {
    let listed = SPLITS.map(|split| destination.manifest.part(split).shards.clone());
    let total: usize = listed.iter().flat_map(|shards| shards.values()).map(|s| s.num_images).sum();
    let mut count = Count::new(screen, "checked", 0, total as u64);
    for ((split, source), shards) in SPLITS.into_iter().zip(sources).zip(listed) {
        let mut dropped = Vec::new();
        for (name, shard) in shards {
            let problem = check::problem(destination.dir(), &name, &shard, pool);
            let problem = problem.or_else(|| repaired(destination, &**source, &shard));
            if let Some(problem) = problem {
                tracing::warn!("{name} {problem}; it is made again");
                dropped.push(name);
            }
            count.advance(shard.num_images as u64);
        }
        if !dropped.is_empty() {
            destination.forget(split, &dropped)?;
        }
    }
    Ok(())
}

/// Says so if an image that was left out can be read now.
fn repaired(destination: &Destination, source: &dyn Source, shard: &Shard) -> Option<String> {
    let settings = &destination.manifest.settings;
    let (mut squarer, mut square) = (Squarer::default(), Vec::new());
    let image = shard.bad.iter().find(|image| {
        square.resize(settings.image_bytes(), 0);
        squarer.draw(source, image.index, settings.size, &mut square).is_ok()
    })?;
    Some(format!("lacks {}, which can be read now", image.name))
}
