//! `verify`: proves on the user's own machine that every mode trains the same network.
//!
//! In fp64 the modes differ by the order of sums only. A wrong gather or a gradient counted twice
//! would show here as a difference many orders of magnitude larger.

use anyhow::Result;

use crate::canonical::Tensors;
use crate::cli::VerifyArgs;
use crate::config::{Algorithms, Arch, Config, Mode, Precision};
use crate::data::{GeneratedSpec, generate};
use crate::device;
use crate::exit::Exit;
use crate::run::{self, weights_after};
use crate::stdout;
use crate::topology::NUM_COLUMNS;

/// The largest relative difference that summation order explains after a few steps in fp64.
pub const TOLERANCE: f64 = 1e-10;

/// The largest difference of each tensor, relative to its largest element.
#[must_use]
pub fn differences(a: &Tensors, b: &Tensors) -> Vec<(String, f64)> {
    a.iter()
        .map(|(name, x)| {
            let scale = x.abs().max().double_value(&[]).max(f64::MIN_POSITIVE);
            let far = b.get(name).map(|y| (x - y).abs().max().double_value(&[]) / scale);
            // A tensor that is missing, or not a number, agrees with nothing.
            (name.clone(), far.filter(|far| far.is_finite()).unwrap_or(f64::INFINITY))
        })
        .collect()
}

/// A small run of `arch` over generated images in `data`, with dropout and augmentation on.
#[must_use]
pub fn config(arch: Arch, data: &std::path::Path) -> Config {
    let mut config = Config::default();
    config.net.arch = arch;
    if arch != Arch::Alexnet {
        // Only the paper's initial weights are made for pixels of 0 to 255.
        config.data.std = [64.0; 3].into();
    }
    config.net.classes = 10;
    config.data.path = data.display().to_string();
    config.data.workers = 1;
    // Each run would try out all convolutions again, on threads of its own, for a handful of steps.
    config.devices.algorithms = Algorithms::Deterministic;
    // Steps are short: what has not come by then hangs.
    config.devices.collective_timeout_s = 120;
    // Several buckets, and some that end inside the network.
    config.devices.bucket_bytes = 8 << 20;
    config.train.precision = Precision::Fp64;
    // At the full rate the paper's net blows up on batches this small, and amplifies rounding.
    config.train.lr = 1e-3;
    // Does not divide by two, three or four: shares are ragged.
    config.train.batch_size = 7;
    config
}

/// Runs the comparison and prints it.
///
/// # Errors
/// If a run fails.
pub fn run(args: &VerifyArgs) -> Result<Exit> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("images");
    generate(&data, &GeneratedSpec { seed: 1, size: 64, num_train: 40, num_test: 10 })?;
    let mut base = config(args.arch, &data);
    base.devices.device = args.device;
    base.devices.backend = args.backend;
    let steps = args.steps as u64;
    let gpus = args.gpus.clone().unwrap_or_else(|| device::two(args.device));
    // What the devices cannot do is said before anything is trained.
    let mut several = base.clone();
    (several.devices.mode, several.devices.gpus) = (Mode::DataParallel, gpus.clone());
    let num_devices = run::world(&several)?.devices.len();
    let single = weights_after(&base, steps)?;
    let (mut worst, mut left_out) = (0.0f64, String::new());
    for mode in [Mode::DataParallel, Mode::Split, Mode::Hybrid] {
        let mut other = several.clone();
        other.devices.mode = mode;
        stdout::line(format_args!(
            "{} in {mode} mode on {} against single, {steps} steps:",
            args.arch, gpus
        ))?;
        if mode == Mode::Split && !num_devices.is_multiple_of(NUM_COLUMNS) {
            stdout::line(format_args!(
                "  left out: two columns need an even number of devices, not {num_devices}"
            ))?;
            left_out = format!("{mode}, which was left out,");
            continue;
        }
        for (name, far) in differences(&single, &weights_after(&other, steps)?) {
            stdout::line(format_args!("  {name:<14} {far:.1e}"))?;
            worst = worst.max(far);
        }
    }
    let verdict = if worst <= TOLERANCE { "agree" } else { "DISAGREE" };
    let but = if left_out.is_empty() { String::new() } else { format!(", but for {left_out}") };
    stdout::line(format_args!(
        "the modes{but} {verdict}: largest relative difference {worst:.1e}, limit {TOLERANCE:.0e}"
    ))?;
    Ok(if worst <= TOLERANCE { Exit::Ok } else { Exit::Failure })
}
