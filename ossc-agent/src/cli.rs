//! The door: parses the command line, sets up logging, runs the agent and turns its outcome into an exit
//! status. Thin on purpose: every decision is in `config` or `agent`.

mod exit;
mod logging;

use clap::Parser;

use crate::agent;
use crate::config::{self, Environment, Flags};

pub use exit::Exit;

/// Fills model files from Alibaba Cloud OSS into the page cache just ahead of the program that reads them.
///
/// The files appear under the model directory at once, with their full size; a reader waits only for bytes
/// that are not there yet. Without --pid, --cgroup or a COMMAND every reader is observed, and the agent runs
/// until SIGTERM or SIGINT. Every reader is served in any case.
#[derive(Debug, Parser)]
#[command(name = "ossc-agent", version, after_long_help = exit::HELP)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
}

/// Runs the program with this process's arguments; `main` ends with what it returns.
#[must_use]
pub fn run() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::of_clap(&error),
    };
    let config = match config::resolve(&cli.flags, &Environment::of_process()) {
        Ok(config) => config,
        Err(error) => return exit::report(&agent::Error::from(error), false),
    };
    if let Err(error) = logging::start(&config.log) {
        return exit::report(&error, false);
    }
    let log_on_stderr = config.log.path.is_none();
    match agent::run(config) {
        Ok(outcome) => Exit::from(outcome),
        Err(error) => exit::report(&error, log_on_stderr),
    }
}
