use std::{fs, path::Path};

use clap::Parser;

use super::*;
use crate::{
    cli::{Cli, Command},
    config::{Arch, Gpus, Mode, Optimizer, Precision, ScheduleKind},
};

fn train_args(line: &[&str]) -> TrainArgs {
    let words = std::iter::once(&"alexnet-mgpu").chain(line);
    match Cli::try_parse_from(words).expect("the flags exist").into_command().expect("no command") {
        Command::Train(args) => *args,
        other => panic!("not a training command: {other:?}"),
    }
}

fn load(line: &[&str]) -> Result<Config, ConfigError> {
    Config::load(&train_args(line))
}

/// The message of a file named `x.toml` with this text.
fn error_of(text: &str) -> String {
    Config::from_toml("x.toml", text, vec![]).expect_err("the text is wrong").to_string()
}

/// The message of a `--set` on the paper's recipe.
fn error_of_set(set: &str) -> String {
    load(&["--data", "d", "--set", set]).expect_err("the override is wrong").to_string()
}

#[test]
fn every_file_in_configs_loads_and_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut num_files = 0;
    for entry in fs::read_dir(folder).expect("configs/ exists") {
        let path = entry.expect("an entry").path();
        let text = path.to_str().expect("a UTF-8 path");
        load(&["--config", text, "--data", "d"]).unwrap_or_else(|error| panic!("{error}"));
        num_files += 1;
    }
    assert!(num_files >= 5, "found {num_files} files");
}

#[test]
fn the_file_for_the_paper_is_the_default_recipe() {
    let text = include_str!("../../../configs/alexnet.toml");
    let config = Config::from_toml("alexnet.toml", text, vec![]).expect("it is valid");
    assert_eq!(config, Config::default());
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_a_suggestion() {
    let error = error_of("# a comment\n[train]\nepochs = 2\nlearning_rate = 1.0\n");
    let start = "x.toml:4: unknown key train.learning_rate; did you mean train.lr? \
                 (the keys of [train] are batch_size, ";
    assert!(error.starts_with(start), "{error}");
    let error = error_of("[data]\ngenerated = { siez = 3 }\n");
    assert!(error.contains("x.toml:2: unknown key data.generated.siez"), "{error}");
    assert!(error.contains("did you mean data.generated.size?"), "{error}");
    let error = error_of("[trian]\nlr = 1.0\n");
    assert!(error.contains("x.toml:2: unknown key trian.lr; did you mean train.lr?"), "{error}");
    let error = error_of_set("train.learning_rate=1");
    assert!(error.starts_with("--set train.learning_rate=1: unknown key"), "{error}");
    assert!(error.contains("did you mean train.lr?"), "{error}");
}

#[test]
fn the_first_of_several_unknown_keys_is_the_one_reported() {
    let error = error_of("[train]\nzzz = 1\naaa = 2\n");
    assert!(error.starts_with("x.toml:2: unknown key train.zzz"), "{error}");
}

#[test]
fn a_syntax_error_has_a_line_and_a_column() {
    let error = error_of("[train]\nlr = \n");
    assert!(error.starts_with("x.toml:2:"), "{error}");
    let error = error_of("[train]\nlr = 1\nlr = 2\n");
    assert!(error.starts_with("x.toml:3:1: "), "{error}");
}

#[test]
fn a_wrong_type_names_the_key_what_was_found_and_what_is_expected() {
    for (text, message) in [
        ("[train]\n\nlr = \"big\"", "x.toml:3: train.lr: "),
        ("[train]\nlr = \"big\"", "string \"big\", expected a number"),
        ("[train]\nbatch_size = -1", "x.toml:2: train.batch_size: "),
        ("[train]\nbatch_size = 1.5", "expected a whole number"),
        (
            "[data]\nmean = [1, 2]",
            "x.toml:2: data.mean: expected a list [red, green, blue], \"auto\"",
        ),
        ("[data]\nmean = \"grey\"", "x.toml:2: data.mean: expected a list [red, green, blue]"),
        ("[data]\nstd = \"none\"", "x.toml:2: data.std: expected a list of numbers or \"auto\""),
        ("[devices]\nmode = \"both\"", "unknown word `both`, expected one of `single`"),
        ("[devices]\ngpus = 0", "x.toml:2: devices.gpus: 0 devices cannot train"),
        ("[devices]\ngpus = \"0,x\"", "`x` in `0,x` is not a device index"),
        ("[devices]\ngpus = true", "expected a number of devices, \"all\""),
        ("train = 3", "x.toml:1: train: this is a section; expected [train], found integer"),
    ] {
        let error = error_of(text);
        assert!(error.contains(message), "{text}: {error}");
    }
    let error = error_of_set("train.lr=big");
    assert!(error.starts_with("--set train.lr=big: train.lr: "), "{error}");
    let error = error_of_set("train=1");
    assert!(error.contains("this is a section"), "{error}");
}

#[test]
fn a_value_out_of_range_is_reported_where_it_was_written() {
    for (text, message) in [
        ("[net]\n\ndropout = 1.0", "x.toml:3: net.dropout = 1: must be 0 or more"),
        ("[train]\nlr = nan", "x.toml:2: train.lr = NaN: "),
        ("[train]\nlr = 0", "above 0"),
        ("[train]\nbatch_size = 0", "train.batch_size = 0: must be 1 or more"),
        ("[data]\nstd = [1, 0, 1]", "data.std = [1.0, 0.0, 1.0]"),
        ("[data]\nmean = [1, 2, 300]", "x.toml:2: data.mean = [1.0, 2.0, 300.0]: each must be"),
        ("[data]\nmean = \"image\"", "x.toml:2: data.mean = image: a mean image is fitted"),
        (
            "[data]\nstats = \"fitted\"\naugment = \"torchvision\"\nmean = \"image\"",
            "x.toml:4: data.mean = image: it does not lie over",
        ),
        ("[data]\ncomponents = [[1,1,0,0], [1,0,1,0], [1,0,1,1]]", "a direction of length 1"),
        ("[data]\naugment = \"torchvision\"\npad = 4", "x.toml:3: data.pad = 4: "),
        ("[net]\narch = \"alexnet-cifar\"\ninput = \"227\"", "x.toml:3: net.input = 227: "),
        ("[data]\ncrop = 300", "data.crop = 300: must fit in a test image"),
        ("[data.generated]\nsize = 2000", "data.generated.size = 2000: must be 8 to 1024"),
        ("[data.generated]\ntest = 9", "data.generated.test = 9: must be 10 or more"),
        ("[devices]\ngpus = 2", "add --mode data-parallel or --mode split"),
        ("[devices]\nmode = \"split\"", "default: devices.gpus = 1"),
        ("[schedule]\nat = [3, 3]", "schedule.at = [3, 3]"),
        ("[schedule]\nwarmup_epochs = 90", "must be shorter than train.epochs"),
        ("[schedule]\nkind = \"plateau\"\n[train]\neval_epochs = 0", "x.toml:4: train.eval_epochs"),
        ("[run]\nname = \"a/b\"", "must be a plain folder name"),
    ] {
        let error = error_of(text);
        assert!(error.contains(message), "{text}: {error}");
    }
    let error = load(&["--lr", "0"]).expect_err("0 is no rate").to_string();
    assert!(error.starts_with("--lr: train.lr = 0: "), "{error}");
}

#[test]
fn a_set_may_leave_out_the_quotes_and_takes_any_toml_value() {
    let config = load(&[
        "--data=d",
        "--set=schedule.kind=cosine",
        "--set=devices.gpus=0,1",
        "--set=devices.mode=\"split\"",
        "--set=schedule.at=[1, 2]",
        "--set=run.name=1e3",
        "--set= train.lr = 1 ",
        "--set=data.generated.size=16",
    ])
    .expect("all are valid");
    assert_eq!(config.schedule.kind, ScheduleKind::Cosine);
    assert_eq!(config.devices.gpus, Gpus::List(vec![0, 1]));
    assert_eq!(config.devices.mode, Mode::Split);
    assert_eq!(config.schedule.at, [1, 2]);
    assert_eq!(config.run.name, "1e3");
    assert_eq!(config.train.lr, 1.0);
    assert_eq!(config.data.generated.size, 16);
    for bad in ["train.lr", "=1", ""] {
        let error = error_of_set(bad);
        assert!(error.contains("expected key=value"), "{bad}: {error}");
    }
}

#[test]
fn a_file_beats_the_defaults_a_set_the_file_and_a_flag_the_set() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let text = "[train]\nlr = 0.2\nepochs = 2\nbatch_size = 2\n[net]\narch = \"alexnet-owt\"\n";
    fs::write(file.path(), text).expect("it is writable");
    let path = file.path().to_str().expect("a UTF-8 path");
    let set = ["--set", "train.epochs=3", "--set", "train.batch_size=3"];
    let line =
        [&["--data", "d", "-b", "5", "--config", path][..], &set, &["--set", "train.epochs=4"]];
    let config = load(&line.concat()).expect("it is valid");
    assert_eq!(config.net.arch, Arch::AlexnetOwt);
    assert_eq!(config.train.lr, 0.2);
    assert_eq!(config.train.epochs, 4, "of two --set the later wins");
    assert_eq!(config.train.batch_size, 5, "a flag wins over --set");
    assert_eq!(config.train.momentum, 0.9, "what nobody set is the paper's");
}

#[test]
fn without_data_or_recipe_the_demonstration_is_trained_and_with_data_the_paper() {
    let demo = load(&["--gpus", "2", "--mode", "split"]).expect("it works as typed");
    assert_eq!(demo.data.path, "generated");
    assert_eq!(demo.name(), "alexnet-cifar-split");
    assert_eq!(demo.run_dir(), Path::new("runs/alexnet-cifar-split"));
    let paper = load(&["--data", "imagenet"]).expect("it is valid");
    assert_eq!(paper.net, Config::default().net);
    assert_eq!(paper.data.path, "imagenet");
    assert!(!train_args(&["--set", "data.path=x"]).uses_demo());
    assert!(!train_args(&["--resume", "runs/x"]).uses_demo());
    assert!(!train_args(&["--set", "run.resume=runs/x"]).uses_demo());
    assert!(train_args(&["--resume", "auto", "--set", "run.resume=runs/x"]).uses_demo());
    assert!(train_args(&["--resume", "auto"]).uses_demo());
}

#[test]
fn a_recipe_without_data_is_refused_unless_nothing_is_trained() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/alexnet.toml");
    let error = load(&["--config", config]).expect_err("there is no data").to_string();
    assert!(error.contains("data.path") && error.contains("--data PATH"), "{error}");
    load(&["--config", config, "--dry-run"]).expect("a dry run needs no data");
}

#[test]
fn an_unreadable_file_is_an_error_that_names_it() {
    let error = load(&["--config", "no/such.toml"]).expect_err("it does not exist").to_string();
    assert!(error.contains("no/such.toml") && error.contains("--config"), "{error}");
}

#[test]
fn a_configuration_survives_being_saved() {
    let flags = ["--data=d", "--gpus=0,1", "--mode=data-parallel", "--precision=bf16", "--seed=9"];
    let more = ["--init=w.safetensors", "--resume=runs/x", "--set=train.optimizer=adam"];
    let config = load(&[&flags[..], &more[..]].concat()).expect("it is valid");
    assert_eq!(config.train.precision, Precision::Bf16);
    assert_eq!(config.train.optimizer, Optimizer::Adam);
    assert_eq!(config.net.init.as_deref(), Some(Path::new("w.safetensors")));
    let back = Config::from_toml("saved", &config.to_toml(), vec![]).expect("it reads back");
    assert_eq!(back, config);
    let flags = train_args(&["--lr", "0.5", "--gpus", "1", "--mode", "single"]);
    let overrides = flags.overrides().expect("they are valid");
    let changed = Config::from_toml("saved", &config.to_toml(), overrides).expect("it is valid");
    assert_eq!(changed.train.lr, 0.5);
    assert_eq!(changed.train.seed, 9);
}

#[test]
fn a_seed_that_toml_cannot_hold_is_refused() {
    let error = load(&["--seed", "18446744073709551615"]).expect_err("too large").to_string();
    assert!(error.starts_with("--seed: train.seed: "), "{error}");
}
