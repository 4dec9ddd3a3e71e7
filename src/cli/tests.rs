use clap::CommandFactory;
use toml::{Table, Value};

use super::*;
use crate::config::Config;

fn command(line: &str) -> Command {
    let words = std::iter::once("alexnet-mgpu").chain(line.split_whitespace());
    match Cli::try_parse_from(words) {
        Ok(cli) => cli.into_command().unwrap_or_else(|error| panic!("{line}: {error}")),
        Err(error) => panic!("{line}: {error}"),
    }
}

#[test]
fn logging_flags_may_stand_before_a_command_and_training_flags_may_not() {
    assert!(matches!(command("-v eval runs/x"), Command::Eval(_)));
    let cli = Cli::try_parse_from(["alexnet-mgpu", "--epochs", "3", "eval", "runs/x"]);
    let error = cli.expect("it parses").into_command().expect_err("eval has no epochs");
    assert!(error.to_string().contains("put flags after the command"), "{error}");
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn training_is_the_default_command_and_has_a_name_too() {
    let line = "--gpus 2 --mode split -b 8 -j 3 --data-dir d";
    let (Command::Train(bare), Command::Train(named)) =
        (command(line), command(&format!("train {line}")))
    else {
        panic!("both train")
    };
    assert_eq!(bare, named);
    assert_eq!(bare.gpus, Some(Gpus::Count(2)));
    assert_eq!(bare.mode, Some(Mode::Split));
    assert_eq!((bare.batch_size, bare.workers), (Some(8), Some(3)));
    assert_eq!(bare.data.as_deref(), Some("d"));
    assert!(matches!(command(""), Command::Train(args) if *args == TrainArgs::default()));
}

#[test]
fn a_checkpoint_to_go_on_from_is_found_however_its_path_is_quoted() {
    let named = |words: &[&str]| {
        let words = ["alexnet-mgpu"].iter().chain(words);
        match Cli::try_parse_from(words).expect("it parses").into_command().expect("one command") {
            Command::Train(args) => args.recipe_checkpoint(),
            other => panic!("{other:?}"),
        }
    };
    let checkpoint = Some("runs/x".into());
    assert_eq!(named(&["--resume", "runs/x"]), checkpoint);
    for set in ["run.resume=runs/x", "run.resume=\"runs/x\"", " run.resume = 'runs/x'"] {
        assert_eq!(named(&["--set", set]), checkpoint, "{set}");
    }
    assert_eq!(named(&["--set", "run.resume=runs/x", "--config", "a.toml"]), None);
    assert_eq!(named(&["--set", "run.resume=runs/x", "--set", "run.resume=auto"]), None);
}

#[test]
fn every_command_line_in_the_help_is_accepted() {
    let help = Cli::command().render_long_help().to_string();
    let (_, examples) = help.split_once("Examples:").expect("the help has examples");
    let lines: Vec<_> =
        examples.lines().filter_map(|line| line.trim().strip_prefix("alexnet-mgpu ")).collect();
    assert!(lines.len() >= 7, "{lines:?}");
    lines.iter().for_each(|line| drop(command(line)));
}

#[test]
fn commands_take_their_flags() {
    let Command::Eval(eval) = command("eval runs/x --views 10 --gpus all --json -v") else {
        panic!("not eval")
    };
    assert_eq!((eval.views, eval.gpus, eval.json), (Views::Ten, Gpus::All, true));
    let Command::Predict(predict) = command("predict --model m a.jpg b.png --top 3") else {
        panic!("not predict")
    };
    assert_eq!((predict.images.len(), predict.top, predict.views), (2, 3, Views::Centre));
    let Command::Bench(BenchCommand::Step(step)) = command("bench step --batch 4 --steps 2") else {
        panic!("not bench")
    };
    assert_eq!((step.batch, step.steps, step.arch), (4, 2, Arch::Alexnet));
    assert!(matches!(command("verify"), Command::Verify(args) if args.gpus.is_none()));
}

#[test]
fn wrong_lines_are_refused() {
    for line in [
        "--gpus 0",
        "--gpus 1,x",
        "--mode both",
        "-v -q",
        "predict --model m",
        "bench",
        "-b x",
        "gpu-check collectives --ranks 0",
        "bench pipeline --data x --seconds=-1",
        "bench pipeline --data x --seconds nan",
        "bench pipeline --data x --seconds inf",
    ] {
        let words = std::iter::once("alexnet-mgpu").chain(line.split_whitespace());
        let error = Cli::try_parse_from(words).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn the_level_follows_v_and_q_before_and_after_a_command() {
    for (line, level) in [
        ("", "info"),
        ("-v", "debug"),
        ("-vv", "trace"),
        ("-q", "warn"),
        ("-qq", "error"),
        ("train -v", "debug"),
        ("eval p -q", "warn"),
    ] {
        let words = std::iter::once("alexnet-mgpu").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).expect("it is valid");
        assert_eq!(cli.verbosity.level(), level, "{line}");
    }
}

/// The value of a dotted key, as the help prints it.
fn printed(table: &Table, key: &str) -> Option<String> {
    let (section, word) = key.split_once('.')?;
    match table.get(section)?.get(word)? {
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[test]
fn the_help_of_a_training_flag_names_its_key_and_the_true_default() {
    let defaults = Table::try_from(Config::default()).expect("the defaults are TOML");
    let mut num_flags = 0;
    for flag in Cli::command().get_arguments() {
        let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
        let Some((_, note)) = help.split_once('[') else { continue };
        let (key, default) = match note.trim_end_matches(']').split_once(", default: ") {
            Some((key, default)) => (key, default),
            None => (note.trim_end_matches(']'), ""),
        };
        assert_eq!(printed(&defaults, key).as_deref(), Some(default), "{help}");
        num_flags += 1;
    }
    assert_eq!(num_flags, 18, "one for each flag that sets a key");
}

#[test]
fn every_training_flag_reaches_its_key() {
    let line = "--arch alexnet-owt --init i --gpus 2 --mode split --device cpu --backend in-process \
                --threads 3 --wire bf16 --data d -j 4 -b 5 --epochs 6 --lr 0.7 --precision bf16 --seed 8 --resume auto \
                --output-dir o --name n";
    let Command::Train(args) = command(line) else { panic!("not train") };
    let config = Config::load(&args).expect("it is valid");
    let set = Table::try_from(config).expect("it is TOML");
    let defaults = Table::try_from(Config::default()).expect("the defaults are TOML");
    for (key, value) in [
        ("net.arch", "alexnet-owt"),
        ("net.init", "i"),
        ("devices.gpus", "2"),
        ("devices.mode", "split"),
        ("devices.device", "cpu"),
        ("devices.backend", "in-process"),
        ("devices.threads", "3"),
        ("devices.wire", "bf16"),
        ("data.path", "d"),
        ("data.workers", "4"),
        ("train.batch_size", "5"),
        ("train.epochs", "6"),
        ("train.lr", "0.7"),
        ("train.precision", "bf16"),
        ("train.seed", "8"),
        ("run.resume", "auto"),
        ("run.output_dir", "o"),
        ("run.name", "n"),
    ] {
        assert_eq!(printed(&set, key).as_deref(), Some(value), "{key}");
        assert_ne!(printed(&defaults, key).as_deref(), Some(value), "{key} is not its default");
    }
}
