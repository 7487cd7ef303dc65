//! `ossc-agent trace`: its arguments, and what its outcome means for the exit status. The work is in
//! `crate::trace`.

use std::ffi::OsString;
use std::io::{BufWriter, IsTerminal, stderr, stdout};
use std::path::PathBuf;
use std::time::Duration;

use super::{Exit, exit, logging};
use crate::bpf::{Faults, Reads};
use crate::config::{Log, LogFormat, LogLevel};
use crate::trace::{self, Config, Format};

/// Arguments of `ossc-agent trace`.
///
/// Shows which bytes of the files are read or mapped, by whom and in which order, until Ctrl-C, the end of
/// COMMAND or of the duration. Without --pid, --cgroup or a COMMAND everybody's accesses are shown. The exit
/// status is COMMAND's own, else 0; 2 for wrong arguments; 5 where the kernel or the privileges give no eBPF.
#[derive(Debug, clap::Args)]
pub(super) struct Trace {
    /// Trace this process and its descendants (repeatable)
    #[arg(long = "pid", value_name = "N")]
    pids: Vec<u32>,

    /// Trace every process of this cgroup v2 directory and of those below it (repeatable)
    #[arg(long = "cgroup", value_name = "PATH")]
    cgroups: Vec<PathBuf>,

    /// File to watch, or directory whose files are watched with all below (repeatable)
    #[arg(long = "path", value_name = "DIR|FILE", required = true)]
    paths: Vec<PathBuf>,

    /// End after this many seconds
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    duration: Option<Duration>,

    /// Write the trace to this file and only the summary to standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Form of the trace
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,

    /// Instead of lines, a table of the files that is redrawn; lines after all where there is no terminal
    #[arg(long)]
    top: bool,

    /// How reads are seen
    #[arg(long, value_name = "HOW", default_value = "auto")]
    reads: Reads,

    /// How page faults are seen; `address` is for trying what older kernels need
    #[arg(long, value_name = "HOW", default_value = "auto", hide = true)]
    faults: Faults,

    /// Program to start and trace; the trace ends when it ends, with its status
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Trace {
    /// Traces, and says how that ended.
    pub(super) fn run(self) -> Exit {
        // Whoever traces waits for lines, not for news of the probes; what these lack is worth a line.
        let log = Log { level: LogLevel::Warn, format: LogFormat::Human, path: None };
        if let Err(error) = logging::start(&log) {
            return exit::report(&error, false);
        }
        if self.output.is_none()
            && matches!(self.format, Format::Perfetto | Format::Html)
            && stdout().is_terminal()
        {
            eprintln!("ossc-agent: this format is not for a terminal; give --output FILE");
            return Exit::USAGE;
        }
        let is_table = self.format == Format::Text && self.output.is_none() && stdout().is_terminal();
        let config = Config {
            top: self.top && is_table,
            pids: self.pids,
            cgroups: self.cgroups,
            command: self.command,
            paths: self.paths,
            duration: self.duration,
            output: self.output,
            format: self.format,
            reads: self.reads,
            faults: self.faults,
        };
        match trace::run(&config, &mut BufWriter::new(stdout().lock()), &mut stderr()) {
            Ok(outcome) => Exit::from(outcome),
            Err(error) => exit::of_trace(&error),
        }
    }
}

/// Seconds with an optional fraction.
fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "it is not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "-1", "nan", "1m", "1e99"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
