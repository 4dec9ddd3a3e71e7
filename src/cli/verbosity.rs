//! How much is logged, by the flags of every command.

use clap::{ArgAction, Args};

/// `-v` and `-q`.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Logging")]
pub struct Verbosity {
    /// Log more; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
    /// Log only warnings; twice for only errors
    #[arg(short, long, global = true, action = ArgAction::Count)]
    quiet: u8,
}

impl Verbosity {
    /// The lowest level to log, by the names of the `tracing` crate.
    #[must_use]
    pub fn level(self) -> &'static str {
        match (self.quiet, self.verbose) {
            (2.., _) => "error",
            (1, _) => "warn",
            (0, 0) => "info",
            (0, 1) => "debug",
            (0, _) => "trace",
        }
    }
}
