//! The one progress bar of the process, and a writer for log lines that does not tear it. `cli` gives the
//! writer to tracing, [`super::Reporter`] draws the bar.

use std::io::{self, IsTerminal, Write, stderr};
use std::sync::OnceLock;

use indicatif::{ProgressBar, ProgressStyle};

static BAR: OnceLock<ProgressBar> = OnceLock::new();

/// The bar on standard error; exists only when that is a terminal.
#[derive(Debug)]
pub struct Terminal;

impl Terminal {
    /// Shows a bar of `total` bytes, unless standard error is not a terminal.
    pub(super) fn show(total: u64) -> Option<&'static ProgressBar> {
        if !stderr().is_terminal() {
            return None;
        }
        let style = ProgressStyle::with_template(
            "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} ETA {eta} {msg}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        Some(BAR.get_or_init(|| ProgressBar::new(total).with_style(style)))
    }

    /// A writer to standard error that lifts the bar while it writes.
    #[must_use]
    pub fn writer() -> TerminalWriter {
        TerminalWriter
    }
}

/// See [`Terminal::writer`].
#[derive(Debug)]
pub struct TerminalWriter;

impl Write for TerminalWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match BAR.get() {
            Some(bar) => bar.suspend(|| stderr().write(bytes)),
            None => stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        stderr().flush()
    }
}
