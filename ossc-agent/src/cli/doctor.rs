//! `ossc-agent doctor`: its arguments, and what its findings mean for the exit status. The work is in
//! `crate::doctor`.

use std::io::{Write as _, stdout};
use std::time::Duration;

use super::{Exit, exit, logging};
use crate::agent;
use crate::config::{self, Environment, Flags, Log, LogFormat, LogLevel};
use crate::doctor::{Options, Verdict, examine};
use crate::sys;

/// Arguments of `ossc-agent doctor`.
///
/// Takes the flags, the environment and the configuration file of a load, and says of everything that load
/// would depend on whether it is well: kernel, privileges, space, memory, clock, routes, OSS and its
/// permissions, throughput. Changes nothing. The exit status is 0 when nothing failed (warnings may be
/// there), 1 when something did.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    flags: Flags,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// How long throughput is measured by each source; 0 leaves it out
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    measure: u16,
}

impl Doctor {
    /// Examines, prints, and says how that ended.
    pub(super) fn run(&self) -> Exit {
        // What goes wrong is in the findings.
        let log = Log { level: LogLevel::Error, format: LogFormat::Human, path: None };
        if let Err(error) = logging::start(&log) {
            return exit::report(&error, false);
        }
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(source) => {
                return exit::report(&agent::Error::System(sys::Error::when("start a runtime")(source)), true);
            }
        };
        let config = config::resolve(&self.flags, &Environment::of_process());
        let options = Options { throughput: Duration::from_secs(self.measure.into()) };
        let known = config.as_ref().map_err(|error| error as &dyn std::error::Error);
        let report = runtime.block_on(examine(known, options));
        let text = if self.json { report.json().unwrap_or_default() + "\n" } else { report.to_string() };
        if stdout().write_all(text.as_bytes()).is_err() || report.verdict() == Verdict::Fail {
            return Exit::INTERNAL;
        }
        Exit::SUCCESS
    }
}
