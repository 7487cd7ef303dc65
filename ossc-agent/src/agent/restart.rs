//! Beginning anew after an object changed in OSS: the agent executes itself, in the same process. To its keeper
//! that is a death and a take-over, so readers of everything else stay held meanwhile and no committed block is
//! fetched again; readers of the version that is gone get an error, and the new version is a new file. A COMMAND
//! runs on and is waited for by its process id.
//!
//! Driven by `agent::run`, once the loop of `load` has ended for this reason.

use std::time::Duration;

use super::Error;
use crate::config::{Config, Environment};
use crate::sys;

/// Between the start and a beginning anew, at least: objects that are replaced one by one, as by an upload under
/// way, are then found together.
pub(super) const LEAST_TIME: Duration = Duration::from_secs(5);
/// Tells the program executed anew the process id of its COMMAND, 0 for none.
const VARIABLE: &str = "OSSC_RESTARTED";

/// What the program before this one left in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// This is the first one.
    Nothing,
    /// There was one, which had started no COMMAND.
    NoCommand,
    /// It had started this COMMAND.
    Command(u32),
}

/// Whether this program was executed anew.
pub(super) fn before() -> Before {
    match Environment::of_process().get(VARIABLE).map(str::parse) {
        Some(Ok(0)) => Before::NoCommand,
        Some(Ok(pid)) => Before::Command(pid),
        _ => Before::Nothing,
    }
}

/// What the service manager gave at the start is gone by now; it stays the one to be told of the progress.
const GIVEN: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"];

/// Executes the program anew, with the secrets that were wiped from the environment; returns why that failed.
pub(super) fn execute(config: &Config, command: Option<u32>) -> Error {
    let command = command.unwrap_or(0).to_string();
    let secrets = config.secrets.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let set = secrets.chain([(VARIABLE, command.as_str())]);
    let source = sys::process::execute_again(set, &GIVEN);
    sys::Error::when("execute the program anew")(source).into()
}
