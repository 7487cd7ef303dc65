//! Progress of the load for people: a bar where standard error is a terminal, a log line now and then where
//! it is not. The agent calls [`Reporter::update`] on its tick and [`Reporter::finish`] at the end.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::Terminal;
use crate::base::Bytes;

/// Between two log lines; often enough to see a stall, rare enough for a journal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the model that are ready.
    pub ready: u64,
    /// Bytes of the model.
    pub total: u64,
    /// Bytes received from OSS in this run.
    pub fetched: u64,
    /// Files that are complete.
    pub files_complete: usize,
    /// Files whose bytes were given up, and nobody has wanted since.
    pub files_evicted: usize,
    /// Files of the model.
    pub files: usize,
    /// Readers held at this moment.
    pub held: u64,
}

/// Shows progress until it is finished.
#[derive(Debug)]
pub struct Reporter {
    bar: Option<&'static ProgressBar>,
    last_line: Instant,
    last_fetched: u64,
}

impl Reporter {
    /// Starts at the progress of a load that begins now.
    #[must_use]
    pub fn start(progress: &Progress) -> Self {
        let bar = Terminal::show(progress.total);
        if let Some(bar) = bar {
            bar.set_position(progress.ready);
            bar.reset_eta();
        }
        Self { bar, last_line: Instant::now(), last_fetched: progress.fetched }
    }

    /// Shows the progress as it stands; cheap enough for several calls a second.
    pub fn update(&mut self, progress: &Progress) {
        if let Some(bar) = self.bar {
            bar.set_position(progress.ready);
            bar.set_message(match progress.held {
                0 => String::new(),
                held => format!("{held} readers waiting"),
            });
            return;
        }
        let since = self.last_line.elapsed();
        if since < LINE_EVERY || progress.fetched == self.last_fetched {
            return;
        }
        let rate = per_second(progress.fetched.saturating_sub(self.last_fetched), since);
        tracing::info!(
            ready = %Bytes(progress.ready),
            total = %Bytes(progress.total),
            rate = %format_args!("{rate}/s"),
            files_complete = progress.files_complete,
            files = progress.files,
            held = progress.held,
            "loading"
        );
        self.last_line = Instant::now();
        self.last_fetched = progress.fetched;
    }

    /// Takes the bar away; the log says the rest.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Bytes per second over `time`.
fn per_second(bytes: u64, time: Duration) -> Bytes {
    let micros = time.as_micros().max(1);
    Bytes(u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX))
}
