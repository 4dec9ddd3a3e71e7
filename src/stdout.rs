//! What commands answer, on the standard output. Everything else that a user reads goes through the log.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use anyhow::{Context, Result};

/// Nobody reads the answers any more, as behind `| head -1`.
#[derive(Debug, thiserror::Error)]
#[error("the standard output is closed")]
pub struct Closed;

/// Prints a line.
///
/// # Errors
/// [`Closed`], or what the system says where there is no room.
pub fn line(text: impl Display) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written.context("cannot write to the standard output"),
    }
}
