//! `alexnet-mgpu stats`: fits what preparing images has to know of a training split.
//!
//! The pass itself is [`data::Fit`]; here is what goes around it on the command line: where the file
//! goes, how far the pass is, and what the numbers mean in the units people use.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use serde_json::json;

use crate::cli::StatsArgs;
use crate::data::{self, Components, Fit, Split, Stats};
use crate::exit::{Coded, Exit};
use crate::feed;
use crate::progress::{Count, Screen};
use crate::replace;
use crate::shell;
use crate::stdout;

/// Fits, stores and prints the statistics of a training split.
///
/// # Errors
/// If the images cannot be read, or the file cannot be written.
pub fn run(args: &StatsArgs, screen: &Screen) -> Result<Exit> {
    let output = output(args)?;
    let fit = Fit {
        source: data::open(&args.data, Split::Train)?,
        resize: args.resize,
        limit: args.limit,
        workers: feed::num_workers(args.workers),
        max_bad_fraction: args.max_bad_fraction,
    };
    let begun = Instant::now();
    let count = Mutex::new(Count::new(screen, "looked at", 0, fit.num_images() as u64));
    let stats = fit.run(|| count.lock().unwrap_or_else(PoisonError::into_inner).advance(1))?;
    drop(count);
    stats.write(&output)?;
    let seconds = begun.elapsed().as_secs_f64();
    let rate = stats.num_images as f64 / seconds;
    tracing::info!("{} images in {seconds:.1} s, {rate:.0} img/s", stats.num_images);
    if args.json {
        stdout::line(numbers(&stats, &output))?;
    } else {
        stdout::line(table(&stats).trim_end())?;
    }
    say_what_next(args, &output);
    Ok(Exit::Ok)
}

/// Where the file goes, which can be written.
fn output(args: &StatsArgs) -> Result<PathBuf> {
    let path = match &args.output {
        Some(path) => path.clone(),
        None if !args.data.is_file() => data::home(&args.data).join(Stats::FILE),
        None => {
            let error = anyhow!(
                "{} is no folder to leave {} in; say where it goes with --output",
                args.data.display(),
                Stats::FILE
            );
            return Err(Coded::new(Exit::Usage, error).into());
        }
    };
    let folder = replace::folder(&path);
    // Without a data folder, that is the error to report.
    if args.output.is_some() || folder.exists() {
        // A pass over a large set should not end in this.
        tempfile::tempfile_in(folder).with_context(|| {
            format!("cannot write {}; choose another place with --output", path.display())
        })?;
    }
    Ok(path)
}

fn say_what_next(args: &StatsArgs, output: &Path) {
    let stats = match args.output {
        None => "fitted".into(),
        Some(_) => shell::word(output),
    };
    tracing::info!("written to {}; to use it: --set data.stats={stats}", output.display());
}

/// The numbers for programs.
fn numbers(stats: &Stats, output: &Path) -> serde_json::Value {
    let components = Components::from(&stats.colours);
    json!({
        "file": output.display().to_string(),
        "num_images": stats.num_images,
        "num_pixels": stats.moments.num_pixels,
        "resize": stats.resize,
        "mean_image": stats.mean_image.as_ref().map(|image| [image.width(), image.height()]),
        "mean": stats.colours.mean,
        "std": stats.colours.std,
        "covariance": stats.colours.covariance,
        "component_std": components.deviations,
        "eigenvalues01": components.eigenvalues01(),
        "components": components.directions,
    })
}

/// The numbers for people.
fn table(stats: &Stats) -> String {
    let colours = &stats.colours;
    let [mean, std] = [colours.mean, colours.std];
    let row = |name: &str, values: [f64; 3], digits: usize| {
        let [r, g, b] = values;
        format!("{name:<36}{r:>11.digits$}{g:>11.digits$}{b:>11.digits$}\n")
    };
    let of_one = |values: [f64; 3]| values.map(|value| value / 255.0);
    let mut text = format!(
        "{} images, {} pixels\n{:<36}{:>11}{:>11}{:>11}\n",
        stats.num_images, stats.moments.num_pixels, "", "red", "green", "blue"
    );
    text += &row("mean (0 to 255)", mean, 2);
    text += &row("     (0 to 1)", of_one(mean), 4);
    text += &row("standard deviation (0 to 255)", std, 2);
    text += &row("                   (0 to 1)", of_one(std), 4);
    for (k, covariance) in colours.covariance.into_iter().enumerate() {
        let name = format!("covariance (0 to 255) with {}", ["red", "green", "blue"][k]);
        text += &row(&name, covariance, 1);
    }
    text += "principal components                  deviation  eigenvalue        red      green       \
             blue\n                                     (0 to 255)    (0 to 1)\n";
    let components = Components::from(&stats.colours);
    for k in 0..3 {
        let (deviation, eigenvalue) = (components.deviations[k], components.eigenvalues01()[k]);
        let [r, g, b] = components.directions[k];
        text += &format!(
            "{:<36}{deviation:>11.2}{eigenvalue:>12.5}{r:>11.4}{g:>11.4}{b:>11.4}\n",
            k + 1
        );
    }
    text
}
