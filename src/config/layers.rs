//! How a file, `--set` and flags become one [`Config`].
//!
//! Each layer remembers where it set a key, so that a value found wrong at the end is reported at the
//! place that wrote it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Serialize;
use toml::{Table, Value};

use super::choices::Resume;
use super::{
    check::{self, Problem},
    error::{ConfigError, Origin},
    keys::{self, Known, Text},
    schema::Config,
};
use crate::cli::TrainArgs;
use crate::replace::folder;

/// The recipe used when the command line names neither a configuration nor data.
const DEMO: Text<'static> =
    Text { name: "configs/demo.toml (built in)", text: include_str!("../../configs/demo.toml") };

/// One key set on the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    origin: Origin,
    key: String,
    value: Value,
    /// As the user wrote it, for keys that are text.
    word: Option<String>,
}

impl Override {
    /// The override of a flag, if the flag was given.
    ///
    /// # Errors
    /// [`ConfigError::WrongType`] if TOML cannot hold the value (a path that is not UTF-8, an integer
    /// of 64 bits).
    pub fn of_flag<T: Serialize>(
        flag: &'static str,
        key: &'static str,
        value: Option<&T>,
    ) -> Result<Option<Self>, ConfigError> {
        let Some(value) = value else { return Ok(None) };
        let origin = Origin::Flag(flag);
        match Value::try_from(value) {
            Ok(value) => Ok(Some(Self { origin, key: key.into(), value, word: None })),
            Err(error) => {
                let message = format!("cannot be saved with the run: {error}");
                Err(ConfigError::WrongType { origin, key: key.into(), message })
            }
        }
    }

    /// What is set, if it is a text and the value of `key`.
    #[must_use]
    pub fn text_of(&self, key: &str) -> Option<&str> {
        if self.key == key { self.value.as_str() } else { None }
    }

    /// The override of `--set key=value`. The value is TOML; quotes around a word may be left out.
    ///
    /// # Errors
    /// [`ConfigError::BadSet`] without a `=` or a key.
    pub fn of_set(text: &str) -> Result<Self, ConfigError> {
        let bad = || ConfigError::BadSet { text: text.into() };
        let (key, raw) = text.split_once('=').ok_or_else(bad)?;
        let (key, raw) = (key.trim(), raw.trim());
        if key.is_empty() {
            return Err(bad());
        }
        let value = set_value(raw);
        let (origin, word) = (Origin::Set(text.into()), Some(raw.to_owned()));
        Ok(Self { origin, key: key.into(), value, word })
    }
}

/// `0.1`, `[1, 2]` and `"x"` as TOML; anything else is the word itself.
fn set_value(raw: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {raw}"));
    // One key alone, so that a line break in `raw` cannot smuggle in another.
    let value = parsed.ok().filter(|table| table.len() == 1).and_then(|mut t| t.remove("value"));
    value.unwrap_or_else(|| Value::String(raw.into()))
}

impl Config {
    /// The configuration of a training command: the file of `--config`, else the paper's recipe if
    /// there is data to train on, else the built-in demonstration ([`TrainArgs::uses_demo`]); then
    /// `--set` and flags on top. A checkpoint's own recipe is the caller's to read: see
    /// [`TrainArgs::recipe_checkpoint`] and [`Config::from_toml`].
    ///
    /// # Errors
    /// [`ConfigError`]: an unreadable file, a wrong key, type or range, or no data to train on.
    pub fn load(args: &TrainArgs) -> Result<Self, ConfigError> {
        let overrides = args.overrides()?;
        if let Some(path) = &args.config {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            let name = path.display().to_string();
            return layer(Some(Text { name: &name, text: &text }), overrides)?.ready(args);
        }
        let demo = args.uses_demo().then_some(DEMO);
        layer(demo, overrides)?.ready(args)
    }

    /// A saved configuration, for instance a checkpoint's, with `overrides` on top. `name` is printed
    /// in errors.
    ///
    /// # Errors
    /// [`ConfigError`], as [`Config::load`] but for the data, which may be missing.
    pub fn from_toml(
        name: &str,
        text: &str,
        overrides: Vec<Override>,
    ) -> Result<Self, ConfigError> {
        layer(Some(Text { name, text }), overrides)
    }

    /// The defaults, with overrides on top.
    ///
    /// # Errors
    /// As [`Config::load`], for what the overrides say.
    pub fn from_flags(overrides: Vec<Override>) -> Result<Self, ConfigError> {
        layer(None, overrides)
    }

    /// Every key with its value, in a form that [`Config::from_toml`] reads back.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a checked configuration has only TOML values")
    }

    /// The name of the run: `run.name`, else architecture and mode, such as `alexnet-split`.
    #[must_use]
    pub fn name(&self) -> String {
        match self.run.name.as_str() {
            "" => format!("{}-{}", self.net.arch, self.devices.mode),
            name => name.into(),
        }
    }

    /// The folder of the run.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.run.output_dir.join(self.name())
    }

    /// The configuration of the run that has got the folder `run_dir`, whatever it had wanted, and whatever it
    /// goes on from.
    #[must_use]
    pub fn of_run_in(&self, run_dir: &Path) -> Self {
        let mut config = self.clone();
        if let Some(name) = run_dir.file_name().filter(|_| run_dir != self.run_dir()) {
            config.run.name = name.to_string_lossy().into_owned();
            config.run.output_dir = folder(run_dir).to_path_buf();
        }
        config.run.resume = Resume::Off;
        config
    }

    /// A real run needs data; a dry run does not.
    fn ready(self, args: &TrainArgs) -> Result<Self, ConfigError> {
        if !self.data.path.is_empty() || args.dry_run {
            return Ok(self);
        }
        Err(ConfigError::Invalid {
            origin: args.config.as_ref().map_or(Origin::Default, |path| Origin::File {
                name: path.display().to_string(),
                line: 1,
            }),
            key: "data.path",
            value: "\"\"".into(),
            why: "there is nothing to train on; add --data PATH, or --data generated to try the \
                  program without files"
                .into(),
        })
    }
}

fn layer(file: Option<Text<'_>>, overrides: Vec<Override>) -> Result<Config, ConfigError> {
    let mut origins = BTreeMap::new();
    let mut config = match file {
        Some(file) => read(file, &mut origins)?,
        None => Config::default(),
    };
    if !overrides.is_empty() {
        config = apply(&config, overrides, &mut origins)?;
    }
    check::check(&config).map_err(|Problem { key, value, why }| {
        let origin = origins.remove(key).unwrap_or(Origin::Default);
        ConfigError::Invalid { origin, key, value, why }
    })?;
    Ok(config)
}

fn read(file: Text<'_>, origins: &mut BTreeMap<String, Origin>) -> Result<Config, ConfigError> {
    let written = file.keys()?;
    let config = toml::from_str(file.text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let key = written.iter().find(|written| written.value.contains(&start));
        ConfigError::WrongType {
            origin: Origin::File { name: file.name.into(), line: file.line(start) },
            key: key.map(|written| written.key.clone()).unwrap_or_default(),
            message: in_plain_words(error.message()),
        }
    })?;
    for written in written {
        let origin = Origin::File { name: file.name.into(), line: written.line };
        origins.insert(written.key, origin);
    }
    Ok(config)
}

/// Applies the overrides one by one: whichever breaks the types is the one to blame.
fn apply(
    config: &Config,
    overrides: Vec<Override>,
    origins: &mut BTreeMap<String, Origin>,
) -> Result<Config, ConfigError> {
    let defaults = keys::default_table();
    let mut config = config.clone();
    let mut table = Table::try_from(&config).map_err(|error| unsaved(&error))?;
    for Override { origin, key, value, word } in overrides {
        match keys::lookup(&defaults, &key) {
            Known::Key => {}
            Known::Section => {
                let message = format!("this is a section; set one of its keys, such as {key}.…");
                return Err(ConfigError::WrongType { origin, key, message });
            }
            Known::Unknown => {
                let hint = keys::hint(&defaults, &key);
                return Err(ConfigError::UnknownKey { origin, key, hint });
            }
        }
        insert(&mut table, &key, value, word);
        config = match table.clone().try_into() {
            Ok(config) => config,
            Err(error) => {
                let message = in_plain_words(error.message());
                return Err(ConfigError::WrongType { origin, key, message });
            }
        };
        origins.insert(key, origin);
    }
    Ok(config)
}

/// A file cannot write a value that TOML cannot hold, so this names no key.
fn unsaved(error: &toml::ser::Error) -> ConfigError {
    ConfigError::WrongType {
        origin: Origin::Default,
        key: "configuration".into(),
        message: error.to_string(),
    }
}

/// Writes a known key. A word may stand where text is wanted although TOML reads it as something
/// else: `--set run.name=7`.
fn insert(table: &mut Table, key: &str, value: Value, word: Option<String>) {
    let Some((section, rest)) = key.split_once('.') else {
        let text = table.get(key).is_some_and(Value::is_str);
        let plain = matches!(value, Value::Integer(_) | Value::Float(_) | Value::Boolean(_));
        let value = match word {
            Some(word) if text && plain => Value::String(word),
            _ => value,
        };
        table.insert(key.into(), value);
        return;
    };
    if let Some(Value::Table(inner)) = table.get_mut(section) {
        insert(inner, rest, value, word);
    }
}

/// Names of Rust types, in the words of someone who writes TOML.
fn in_plain_words(message: &str) -> String {
    let words = [
        ("expected f64", "expected a number"),
        ("expected usize", "expected a whole number, 0 or more"),
        ("expected u64", "expected a whole number, 0 or more"),
        ("expected an array of length", "expected a list of length"),
        ("expected a sequence", "expected a list such as [1, 2]"),
        ("expected path string", "expected a path in quotes"),
        ("expected a string", "expected text in quotes"),
        ("unknown variant", "unknown word"),
    ];
    words.iter().fold(message.to_owned(), |text, (rust, plain)| text.replace(rust, plain))
}

#[cfg(test)]
mod tests;
