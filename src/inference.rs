//! Using a trained model: `eval` over a test split, `predict` over single images.
//!
//! Both print what the network says; how images are prepared for it is [`Trained`]'s business.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use crate::checkpoint;
use crate::cli::{EvalArgs, PredictArgs};
use crate::colours::Colours;
use crate::config::Mode;
use crate::data::Views;
use crate::diverged::Diverged;
use crate::exit::in_words;
use crate::feed::Feed;
use crate::net::loss;
use crate::run::{self, Handout};
use crate::stdout;
use crate::train::Worker;
use crate::trained::{Trained, all_readable};

/// Evaluates a model on every image of a test split once, and prints the result.
///
/// # Errors
/// If the model or the images cannot be read, a device is missing, or the model's training had diverged.
pub fn eval(args: &EvalArgs) -> Result<()> {
    let mut model = Trained::load(&args.path)?;
    let config = &mut model.config;
    config.devices.gpus = args.gpus.clone();
    config.devices.device = args.device;
    // Replicas share the images however the model was trained.
    config.devices.mode = Mode::DataParallel;
    if let Some(path) = &args.data {
        config.data.path.clone_from(path);
    }
    if let Some(batch) = args.batch_size {
        config.train.batch_size = batch;
    }
    if let Some(precision) = args.precision {
        config.train.precision = precision;
    }
    let views = args.views;
    let world = run::world(&model.config)?;
    let feed = Feed::open(&model.config, model.arch.input as usize, &world.devices)?;
    let (expected, found) = (&model.classes, feed.train.classes());
    checkpoint::check_classes(expected, found, "name the model's own data with --data")?;
    // Larger batches would only be memory.
    let most = feed.test.len().max(world.topology.num_replicas);
    model.config.train.batch_size = model.config.train.batch_size.min(most);
    let loader = feed.test(&model.config, world.topology, views, &world.cancel)?;
    let handout = Handout::new(loader);
    let tallies = world.run(|place| {
        let batches = handout.take(&place)?;
        model.worker(&world, place)?.evaluate(&batches, views.num())
    })?;
    let tally = tallies.first().context("there is always a first rank")?;
    ensure!(tally.loss().is_finite(), Diverged::Model);
    let (top1, top5) = (tally.top1(), tally.top5());
    if args.json {
        stdout::line(serde_json::json!({
            "top1": top1, "top5": top5, "loss": tally.loss(),
            "num_images": tally.num_images as u64, "views": views.num(),
        }))?;
    } else {
        stdout::line(format_args!(
            "{} images, {} view(s): top-1 {:.2} % (error {:.2} %), top-5 {:.2} %, loss {:.4}",
            tally.num_images as u64,
            views.num(),
            100.0 * top1,
            100.0 - 100.0 * top1,
            100.0 * top5,
            tally.loss()
        ))?;
    }
    Ok(())
}

/// Prints the most probable classes of images.
///
/// # Errors
/// If the model or an image cannot be read. All other images are named nevertheless.
pub fn predict(args: &PredictArgs) -> Result<()> {
    let mut model = Trained::load(&args.model)?;
    model.config.devices.device = args.device;
    let views = args.views;
    let world = run::world(&model.config)?;
    let name = |(i, id): (usize, &String)| Class {
        id: id.clone(),
        name: model.class_names.get(i).unwrap_or(id).clone(),
    };
    let classes: Vec<Class> = model.classes.iter().enumerate().map(name).collect();
    let colours = Colours::find(&model.config)?;
    let num_bad: usize = world
        .run(|place| {
            let mut worker = model.worker(&world, place)?;
            let mut num_bad = 0;
            for path in &args.images {
                match model.views_of(path, &colours, views) {
                    Ok(x) => {
                        let p = probabilities(&mut worker, x, views)?;
                        stdout::line(describe(path, &p, &classes, args))?;
                    }
                    Err(error) => {
                        tracing::error!("{}", in_words(&error));
                        num_bad += 1;
                    }
                }
            }
            Ok(num_bad)
        })?
        .into_iter()
        .sum();
    all_readable(num_bad, args.images.len())
}

/// The class probabilities of the image whose views are `x`, `[views, H, W, 3]`.
fn probabilities(worker: &mut Worker, x: Tensor, views: Views) -> Result<Vec<f64>> {
    let kind = worker.net.arena.weights.kind();
    let x = x.f_to_device(worker.place.device)?.f_to_kind(kind)?;
    let p = loss::mean_probabilities(&worker.logits(x, views.num())?, views.num())?;
    let p = Vec::<f64>::try_from(p.f_view([-1])?.f_to_kind(Kind::Double)?)?;
    ensure!(p.iter().all(|p| p.is_finite()), Diverged::Model);
    Ok(p)
}

/// A class as it is printed.
struct Class {
    /// What tells it apart.
    id: String,
    /// What people call it.
    name: String,
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.id == self.name {
            true => write!(f, "{}", self.id),
            false => write!(f, "{} ({})", self.name, self.id),
        }
    }
}

fn describe(path: &Path, p: &[f64], classes: &[Class], args: &PredictArgs) -> String {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
    order.truncate(args.top);
    if args.json {
        let top: Vec<_> = order
            .iter()
            .map(|&i| {
                let Class { id, name } = &classes[i];
                serde_json::json!({ "class": id, "name": name, "probability": p[i] })
            })
            .collect();
        return serde_json::json!({ "image": path.display().to_string(), "top": top }).to_string();
    }
    let top: Vec<_> =
        order.iter().map(|&i| format!("  {:6.2} %  {}", 100.0 * p[i], classes[i])).collect();
    format!("{}\n{}", path.display(), top.join("\n"))
}
