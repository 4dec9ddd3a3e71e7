//! Parse, run, and say how it ended.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use alexnet_mgpu::bench;
use alexnet_mgpu::checkpoint;
use alexnet_mgpu::cli::{BenchCommand, Cli, Command, GpuCheckCommand, TrainArgs};
use alexnet_mgpu::config::{Config, Override};
use alexnet_mgpu::exit::{Coded, Exit, exit_of, in_words};
use alexnet_mgpu::net::build::{Plan, Site};
use alexnet_mgpu::progress::{LogFile, Screen, init_logging};
use alexnet_mgpu::session::{self, Outcome};
use alexnet_mgpu::stdout::{self, Closed};
use alexnet_mgpu::{
    collective_check, colours, draw, environment, inference, kernel_check, pack, run, shell,
    statistics, verify,
};
use anyhow::{Result, anyhow};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    environment::complete();
    let level = cli.verbosity.level().parse().unwrap_or(tracing::level_filters::LevelFilter::INFO);
    let command = cli.into_command().unwrap_or_else(|error| error.exit());
    let (screen, log) = match init_logging(level) {
        Ok(log) => log,
        Err(error) => {
            // The log cannot carry this. Who has closed standard error has read enough.
            let _ = writeln!(io::stderr(), "error: {}", in_words(&error));
            return exit_of(&error).into();
        }
    };
    match execute(command, &screen, &log) {
        Ok(exit) => exit.into(),
        Err(error) => {
            // Who has closed the pipe has read enough.
            if !error.chain().any(|cause| cause.is::<Closed>()) {
                tracing::error!("{}", in_words(&error));
            }
            exit_of(&error).into()
        }
    }
}

fn execute(command: Command, screen: &Screen, log: &LogFile) -> Result<Exit> {
    match command {
        Command::Train(args) => train(&args, screen, log),
        Command::Verify(args) => verify::run(&args),
        Command::Bench(BenchCommand::Step(args)) => bench::step(&args).map(|()| Exit::Ok),
        Command::Bench(BenchCommand::Pipeline(args)) => {
            bench::pipeline(&args, screen).map(|()| Exit::Ok)
        }
        Command::GpuCheck(GpuCheckCommand::Collectives(args)) => {
            collective_check::run(&args).map(|()| Exit::Ok)
        }
        Command::GpuCheck(GpuCheckCommand::Kernels(args)) => kernel_check::kernels(&args),
        Command::GpuCheck(GpuCheckCommand::Speed(args)) => {
            kernel_check::speed(&args).map(|()| Exit::Ok)
        }
        Command::GpuCheck(GpuCheckCommand::Steps) => bench::steps().map(|()| Exit::Ok),
        Command::Pack(args) => pack::run(&args, screen),
        Command::Stats(args) => statistics::run(&args, screen),
        Command::Eval(args) => inference::eval(&args).map(|()| Exit::Ok),
        Command::Predict(args) => inference::predict(&args).map(|()| Exit::Ok),
        Command::Draw(args) => draw::run(&args).map(|()| Exit::Ok),
    }
}

fn train(args: &TrainArgs, screen: &Screen, log: &LogFile) -> Result<Exit> {
    let config = match args.recipe_checkpoint() {
        Some(_) if args.init.is_some() => {
            let error = anyhow!(
                "--init begins a run, and --resume goes on with one; leave one of them out"
            );
            return Err(Coded::new(Exit::Usage, error).into());
        }
        Some(path) => saved_recipe(&path, args.overrides()?)?,
        None => Config::load(args)?,
    };
    if args.uses_demo() {
        tracing::info!(
            "no --config and no --data: training the built-in recipe, configs/demo.toml"
        );
    }
    if args.dry_run {
        describe(&colours::resolved(&config)?)?;
        return Ok(Exit::Ok);
    }
    let outcome = session::train(&config, screen, log)?;
    match outcome.exit {
        Exit::Ok => say_what_next(&outcome),
        Exit::Saved => {
            let run = shell::word(&outcome.folder);
            tracing::warn!("saved; continue with: {} --resume {run}", program());
        }
        _ => {}
    }
    Ok(outcome.exit)
}

/// How the user called this program.
fn program() -> String {
    shell::word(Path::new(&std::env::args_os().next().unwrap_or_default()))
}

/// The recipe in a checkpoint, for a run in the folder where the checkpoint lies now, which may have been moved.
/// The folder is pinned before `overrides` apply: a name made of the mode would change with `--mode`.
fn saved_recipe(checkpoint: &Path, overrides: Vec<Override>) -> Result<Config> {
    let name = checkpoint.display().to_string();
    let recipe = checkpoint::load_state(checkpoint)?.config;
    let mut saved = Config::from_toml(&name, &recipe, Vec::new())?;
    match checkpoint::run_folder(checkpoint) {
        // As the recipe spells it.
        Some(now) if saved.run_dir().canonicalize().is_ok_and(|then| then == now) => {
            saved.run.name = saved.name();
        }
        Some(now) => saved = saved.of_run_in(&now),
        None => return Ok(Config::from_toml(&name, &recipe, overrides)?),
    }
    Ok(Config::from_toml(&name, &saved.to_toml(), overrides)?)
}

/// Says what came out, where it lies and what can be done with it.
fn say_what_next(outcome: &Outcome) {
    let program = program();
    let run = shell::word(&outcome.folder);
    if let Some(tally) = outcome.tally {
        let (top1, top5) = (100.0 * tally.top1(), 100.0 * tally.top5());
        tracing::info!("test accuracy {top1:.2} % top-1, {top5:.2} % top-5");
    }
    let checkpoints = match outcome.links.as_slice() {
        [] => String::new(),
        links => format!(", checkpoints/{}", links.join(" and ")),
    };
    tracing::info!("everything lies in {run}: config.toml, metrics.jsonl, log.txt{checkpoints}");
    if !outcome.links.contains(&"last") {
        return;
    }
    tracing::info!("to try next:");
    tracing::info!("  {program} eval {run} --views 10");
    let image = shell::word(outcome.example.as_deref().unwrap_or(Path::new("IMAGE.jpg")));
    tracing::info!("  {program} predict --model {run} {image}");
    tracing::info!("  {program} draw --model {run} {image}");
    tracing::info!("  {program} verify");
}

/// Prints the resolved configuration and the network it makes, for `--dry-run`.
fn describe(config: &Config) -> Result<()> {
    // Without images to count them in, ImageNet's number of classes.
    let classes = if config.net.classes == 0 { 1000 } else { config.net.classes };
    let plan = Plan::new(&run::architecture(config, classes)?, Site::WHOLE)?;
    stdout::line(config.to_toml())?;
    for layer in &plan.layers {
        stdout::line(format_args!("# {:<10} {:?}", layer.name, layer.output))?;
    }
    stdout::line(format_args!(
        "# {} parameters, {} multiplications an image, {classes} classes",
        plan.num_params(),
        plan.num_macs()
    ))?;
    Ok(())
}
