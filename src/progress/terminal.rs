//! Standard error as the bar's terminal, for as long as it is there.
//!
//! A terminal that is closed fails whatever is written to it, and indicatif panics on that in
//! `MultiProgress::suspend`. A run that saves when its terminal closes must not.

use std::io;

use console::Term;
use indicatif::TermLike;

/// A terminal whose failures nobody is told of.
#[derive(Debug)]
pub(super) struct Terminal(Term);

impl Terminal {
    /// Standard error.
    pub(super) fn stderr() -> Self {
        Self(Term::buffered_stderr())
    }
}

/// Ignores a failure.
fn heedless(_: io::Result<()>) -> io::Result<()> {
    Ok(())
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        TermLike::width(&self.0)
    }

    fn height(&self) -> u16 {
        TermLike::height(&self.0)
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        heedless(self.0.move_cursor_up(lines))
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        heedless(self.0.move_cursor_down(lines))
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        heedless(self.0.move_cursor_right(columns))
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        heedless(self.0.move_cursor_left(columns))
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        heedless(self.0.write_line(text))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        heedless(self.0.write_str(text))
    }

    fn clear_line(&self) -> io::Result<()> {
        heedless(self.0.clear_line())
    }

    fn flush(&self) -> io::Result<()> {
        heedless(self.0.flush())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};

    use super::*;

    #[test]
    fn what_is_done_between_drawings_is_done_where_the_terminal_is_gone() {
        let full = File::options().write(true).open("/dev/full").expect("Linux has one");
        let input = File::open("/dev/null").expect("Linux has one");
        let terminal = Terminal(Term::read_write_pair(input, full));
        assert!(terminal.0.write_line("lost").is_err());
        let bars =
            MultiProgress::with_draw_target(ProgressDrawTarget::term_like(Box::new(terminal)));
        let bar = bars.add(ProgressBar::new(3));
        bar.tick();
        assert_eq!(bars.suspend(|| 5), 5);
    }
}
