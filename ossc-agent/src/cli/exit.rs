//! Exit statuses, the one place that numbers them. `cli` turns every outcome into one of these; scripts
//! and units may rely on them.

use std::process::{ExitCode, Termination};

use crate::agent::{Error, Outcome, Status};
use crate::base::chain;
use crate::oss;
use crate::status;
use crate::trace;

/// What `--help` says of exit statuses.
pub(super) const HELP: &str = "\
Exit status:
  0  ended by SIGTERM or SIGINT, or complete with --exit-when-complete
  1  an error inside the agent
  2  the command line, the environment or the configuration file is wrong
  3  OSS refused: credentials, permission, bucket or prefix
  4  the model directory cannot take the files: space, file system, something in the way
  5  the kernel or the privileges lack what holding readers needs
  6  OSS cannot be reached: name, connection, TLS, or no answer in time
  7  verify: a file is not what OSS has, or not what was loaded
  8  verify: a file is not complete, and nothing is wrong with what is there
  9  status, cancel, prefetch, evict: no agent serves the model directory, or it will not; with --ready: not yet
  N  with a COMMAND: its own status; 128 + signal if a signal ended it; 127 if it cannot be started";

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    /// All is well.
    pub(super) const SUCCESS: Self = Self(0);
    /// An error inside the agent.
    pub(super) const INTERNAL: Self = Self(1);
    /// What the user said is wrong.
    pub(super) const USAGE: Self = Self(2);

    /// No agent, or it is not so far.
    pub(super) const NOT_YET: Self = Self(9);

    /// What `verify` found.
    pub(super) fn of_verify(status: Status) -> Self {
        Self(match status {
            Status::Ok => 0,
            Status::Different => 7,
            Status::Incomplete => 8,
        })
    }

    /// The number the shell sees.
    #[must_use]
    pub fn code(self) -> u8 {
        self.0
    }
}

impl From<Outcome> for Exit {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Stopped | Outcome::Complete => Self(0),
            Outcome::CommandExited(status) => Self(status),
        }
    }
}

impl From<trace::Outcome> for Exit {
    fn from(outcome: trace::Outcome) -> Self {
        match outcome {
            trace::Outcome::Ended => Self(0),
            trace::Outcome::CommandExited(status) => Self(status),
        }
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.0)
    }
}

/// Says once, with its causes, what went wrong: in the log, and on standard error unless the log goes there
/// (`log_on_stderr`). Chooses the status by the kind of the error.
pub(super) fn report(error: &Error, log_on_stderr: bool) -> Exit {
    let message = chain(error);
    tracing::error!("{message}");
    if !log_on_stderr {
        eprintln!("ossc-agent: {message}");
    }
    Exit(match error {
        Error::Config(_) => 2,
        Error::Oss(oss::Error::Transport { .. } | oss::Error::Stalled { .. }) => 6,
        Error::Oss(oss::Error::Service(error)) if error.is_of_proxy() => 6,
        Error::Oss(oss::Error::Setting { .. } | oss::Error::CaFile { .. } | oss::Error::NoRoots) => 2,
        Error::Oss(_) => 3,
        Error::Store(_)
        | Error::Manifest(_)
        | Error::Incomplete { .. }
        | Error::NothingRecorded { .. }
        | Error::TooManyFiles { .. } => 4,
        Error::Gate(_) => 5,
        Error::Command { .. } => 127,
        Error::Peer(_) => 2,
        Error::Fetch(_) | Error::Keeper(_) | Error::System(_) => 1,
        Error::Log { .. } | Error::Audit { .. } | Error::StateDir { .. } | Error::Http { .. } => 2,
    })
}

/// Says why a trace failed, on standard error, where its log goes too.
pub(super) fn of_trace(error: &trace::Error) -> Exit {
    eprintln!("ossc-agent: {}", chain(error));
    Exit(match error {
        trace::Error::Command { .. } => 127,
        error if error.is_unsupported() => 5,
        error if error.is_usage() => 2,
        _ => 1,
    })
}

/// Says why an agent could not be asked, on standard error.
pub(super) fn of_status(error: &status::Error) -> Exit {
    eprintln!("ossc-agent: {}", chain(error));
    Exit(match error {
        status::Error::Nobody { .. } | status::Error::Dead { .. } | status::Error::Refused { .. } => 9,
        _ => 1,
    })
}

/// Prints what clap has to say: help and version to standard output with 0, mistakes to standard error with 2.
pub(super) fn of_clap(error: &clap::Error) -> Exit {
    let status = if error.use_stderr() { 2 } else { 0 };
    match error.print() {
        Ok(()) => Exit(status),
        // The reader of our output has gone; there is nobody to tell.
        Err(_) => Exit(1),
    }
}
