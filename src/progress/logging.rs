//! Where log lines go: to the terminal, without tearing the progress bar, and to the run's log
//! file.
//!
//! The terminal gets plain messages, the file gets times, threads and levels. The file is named
//! only once the run has a folder; the lines before that wait in memory. What is logged is not
//! decided here.

use std::env;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow};
use indicatif::{MultiProgress, ProgressDrawTarget};
use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use super::LINE_TARGET;
use super::terminal::Terminal;
use crate::exit::{Coded, Exit};
use crate::run_folder::open_append;

/// How much is kept in memory for a log file that is not named yet.
const MAX_EARLY_BYTES: usize = 64 << 10;

/// How often the bar is drawn, at most.
const DRAWN_A_SECOND: u8 = 20;

/// The terminal, shared by the progress bar and the log. Clones are the same terminal.
#[derive(Clone, Debug)]
pub struct Screen {
    pub(super) bars: MultiProgress,
}

impl Screen {
    /// Standard error, with a bar if it is a terminal.
    #[must_use]
    pub fn stderr() -> Self {
        let target = if is_capable_terminal() {
            let terminal = Box::new(Terminal::stderr());
            ProgressDrawTarget::term_like_with_hz(terminal, DRAWN_A_SECOND)
        } else {
            ProgressDrawTarget::hidden()
        };
        Self { bars: MultiProgress::with_draw_target(target) }
    }

    /// Standard error without a bar.
    #[must_use]
    pub fn without_bar() -> Self {
        Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()) }
    }
}

impl Write for Screen {
    /// Never fails: nobody is left to hear that standard error is closed.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.bars.suspend(|| io::stderr().lock().write_all(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The run's log file, once there is one. Clones are the same file.
#[derive(Clone, Debug, Default)]
pub struct LogFile {
    sink: Arc<Mutex<Sink>>,
}

#[derive(Debug)]
enum Sink {
    /// Lines that wait for the file.
    Early(Vec<u8>),
    File {
        file: File,
        path: PathBuf,
    },
    /// The file could not be written.
    Closed,
}

impl Default for Sink {
    fn default() -> Self {
        Self::Early(Vec::new())
    }
}

impl LogFile {
    /// Appends the lines so far, and all that follow, to the file at `path`.
    ///
    /// # Errors
    /// If the file cannot be opened or written.
    pub fn attach(&self, path: &Path) -> Result<()> {
        let mut file = open_append(path)?;
        let mut sink = self.lock();
        if let Sink::Early(lines) = &*sink {
            let written = file.write_all(lines);
            written
                .with_context(|| format!("cannot write {}; is the disk full?", path.display()))?;
        }
        *sink = Sink::File { file, path: path.to_path_buf() };
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the log file is lost.
fn give_up(path: &Path, error: &io::Error) {
    // The log cannot carry this. A torn bar is drawn again.
    let _ = writeln!(
        io::stderr(),
        "warning: cannot write {}: {error}; its log ends here, the run goes on",
        path.display()
    );
}

impl Write for LogFile {
    /// Never fails: the log is not worth ending a run for.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut sink = self.lock();
        match &mut *sink {
            Sink::Early(lines) if lines.len() + line.len() <= MAX_EARLY_BYTES => {
                lines.extend_from_slice(line);
            }
            Sink::Early(_) | Sink::Closed => {}
            Sink::File { file, path } => {
                if let Err(error) = file.write_all(line) {
                    give_up(path, &error);
                    *sink = Sink::Closed;
                }
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends the log of the whole process to standard error, from `level` up, and to a file that is
/// attached later, from `level` or information up. `RUST_LOG`, in the form of `env_logger`,
/// replaces the level. Below information there is no bar; while there is one, lines of progress go
/// to the file only.
///
/// # Errors
/// If `RUST_LOG` cannot be understood, or the process logs elsewhere already.
pub fn init_logging(level: LevelFilter) -> Result<(Screen, LogFile)> {
    let screen = if level >= LevelFilter::INFO { Screen::stderr() } else { Screen::without_bar() };
    let file = LogFile::default();
    let mut shown = targets(level)?;
    if !screen.bars.is_hidden() {
        shown = shown.with_target(LINE_TARGET, LevelFilter::OFF);
    }
    let colour =
        if is_capable_terminal() && !is_set("NO_COLOR") { Colour::On } else { Colour::Off };
    let (lines, logged) = (screen.clone(), file.clone());
    Registry::default()
        .with(terminal_layer(move || lines.clone(), colour).with_filter(shown))
        .with(
            file_layer(move || logged.clone()).with_filter(targets(level.max(LevelFilter::INFO))?),
        )
        .try_init()
        .context("cannot set up the log")?;
    Ok((screen, file))
}

/// This program from `level` up, and warnings of the libraries it uses.
fn targets(level: LevelFilter) -> Result<Targets> {
    match env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => text.parse().map_err(|error| {
            let expected = "expected a level such as debug, or target=level,...";
            Coded::new(Exit::Usage, anyhow!("RUST_LOG={text}: {expected}: {error}")).into()
        }),
        _ => Ok(Targets::new()
            .with_default(level.min(LevelFilter::WARN))
            .with_target(env!("CARGO_CRATE_NAME"), level)),
    }
}

fn is_capable_terminal() -> bool {
    io::stderr().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether a variable is there and not empty, as no-color.org asks.
fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| !value.is_empty())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    On,
    Off,
}

fn terminal_layer<S, W>(writer: W, colour: Colour) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .event_format(Message)
        .with_ansi(colour == Colour::On)
        .with_writer(writer)
}

fn file_layer<S, W>(writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_target(false)
        .with_thread_names(true)
        .with_writer(writer)
}

/// A log line for a person: the message, after `warning:` and the like where it is not information.
struct Message;

impl<S, N> FormatEvent<S, N> for Message
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let label = match *event.metadata().level() {
            Level::ERROR => Some(("error", "1;31")),
            Level::WARN => Some(("warning", "1;33")),
            Level::INFO => None,
            Level::DEBUG => Some(("debug", "2")),
            Level::TRACE => Some(("trace", "2")),
        };
        match label {
            Some((word, style)) if writer.has_ansi_escapes() => {
                write!(writer, "\x1b[{style}m{word}:\x1b[0m ")?;
            }
            Some((word, _)) => write!(writer, "{word}: ")?,
            None => {}
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;
    use tracing::subscriber::with_default;

    use super::*;

    fn text(log: &LogFile) -> String {
        match &*log.lock() {
            Sink::Early(lines) => String::from_utf8_lossy(lines).into_owned(),
            other => panic!("{other:?}"),
        }
    }

    fn shown(colour: Colour) -> String {
        let log = LogFile::default();
        let writer = log.clone();
        let layer = terminal_layer(move || writer.clone(), colour);
        with_default(Registry::default().with(layer), || {
            tracing::info!("training on 2 devices");
            tracing::warn!(images = 3, "unreadable");
            tracing::error!("out of memory");
        });
        text(&log)
    }

    #[test]
    fn the_terminal_gets_messages_with_a_prefix_only_where_something_is_wrong() {
        let expected =
            "training on 2 devices\nwarning: unreadable images=3\nerror: out of memory\n";
        assert_eq!(shown(Colour::Off), expected);
    }

    #[test]
    fn colour_marks_the_prefix_and_not_the_message() {
        assert!(shown(Colour::On).starts_with("training on 2 devices\n\x1b[1;33mwarning:\x1b[0m "));
    }

    #[test]
    fn the_log_file_has_levels_and_times_and_the_lines_before_it_was_attached() {
        let dir = TempDir::new().expect("a temporary folder");
        let (log, path) = (LogFile::default(), dir.path().join("log.txt"));
        let writer = log.clone();
        let layer = file_layer(move || writer.clone());
        with_default(Registry::default().with(layer), || {
            tracing::info!("early");
            log.attach(&path).expect("writable");
            tracing::warn!("late");
        });
        let text = fs::read_to_string(&path).expect("written");
        let [early, late] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert!(early.contains(" INFO ") && early.ends_with("early"), "{early}");
        assert!(late.contains(" WARN ") && late.ends_with("late"), "{late}");
        assert_eq!(early.find('T'), Some("2012-09-30".len()), "{early}");
    }

    #[test]
    fn memory_for_early_lines_is_bounded() {
        let mut log = LogFile::default();
        for _ in 0..3 {
            log.write_all(&[b'x'; MAX_EARLY_BYTES / 2]).expect("never fails");
        }
        assert_eq!(text(&log).len(), MAX_EARLY_BYTES);
    }

    #[test]
    fn a_full_disk_ends_the_log_and_not_the_run() {
        let mut log = LogFile::default();
        log.attach(Path::new("/dev/full")).expect("opens, and nothing waits to be written");
        log.write_all(b"a line\n").expect("never fails");
        assert!(matches!(*log.lock(), Sink::Closed));
        log.write_all(b"a line\n").expect("never fails");
    }

    #[test]
    fn a_log_file_in_a_missing_folder_is_an_error_that_names_it() {
        let error =
            LogFile::default().attach(Path::new("/proc/none/log.txt")).expect_err("missing");
        assert!(format!("{error:#}").contains("/proc/none/log.txt"), "{error:#}");
    }
}
