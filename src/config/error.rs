//! What can be wrong with a configuration, said so that it can be put right.
//!
//! Every message names the place (file and line, `--set`, or flag), the key, and what to do. Nothing
//! here knows the keys themselves.

use std::{fmt, io, path::PathBuf};

/// Who gave a key its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody: the default.
    Default,
    /// A line, counted from 1, of a configuration file.
    File {
        /// The file as named on the command line.
        name: String,
        /// The line of the key or value.
        line: usize,
    },
    /// `--set`, with its argument.
    Set(String),
    /// A flag such as `--lr`.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Set(text) => write!(f, "--set {text}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}; check the path given to --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{name}:{line}:{column}: {message}")]
    Syntax {
        /// The file.
        name: String,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// What the parser expected.
        message: String,
    },
    /// No such key.
    #[error("{origin}: unknown key {key}{hint}")]
    UnknownKey {
        /// Where it is written.
        origin: Origin,
        /// The dotted key.
        key: String,
        /// A suggestion, starting with its punctuation.
        hint: String,
    },
    /// A value of the wrong type, or a word that is not one of the choices.
    #[error("{origin}: {key}: {message}")]
    WrongType {
        /// Where it is written.
        origin: Origin,
        /// The dotted key.
        key: String,
        /// What was found and what is expected.
        message: String,
    },
    /// A value out of its range, or one that contradicts another.
    #[error("{origin}: {key} = {value}: {why}")]
    Invalid {
        /// Who gave the value.
        origin: Origin,
        /// The dotted key.
        key: &'static str,
        /// The value refused.
        value: String,
        /// The rule and what to do.
        why: String,
    },
    /// `--set` without a key and a value.
    #[error("--set {text}: expected key=value, for instance --set train.lr=0.02")]
    BadSet {
        /// The argument.
        text: String,
    },
}
