//! The door: parses the command line, sets up logging, runs the agent and turns its outcome into an exit
//! status. Thin on purpose: every decision is in `config` or `agent`.

mod exit;
mod logging;
mod trace;

use clap::{Parser, Subcommand};

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
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    flags: Flags,

    #[command(subcommand)]
    task: Option<Task>,
}

/// What else the program can do than load.
#[derive(Debug, Subcommand)]
enum Task {
    /// Show which bytes of files are read or mapped, by whom and in which order
    Trace(trace::Trace),
}

/// Runs the program with this process's arguments; `main` ends with what it returns.
#[must_use]
pub fn run() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::of_clap(&error),
    };
    if let Some(Task::Trace(trace)) = cli.task {
        return trace.run();
    }
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_and_a_command_need_no_task_and_tasks_no_flags() {
        Cli::command().debug_assert();
        let parse =
            |line: &str| Cli::try_parse_from(["ossc-agent"].into_iter().chain(line.split_whitespace()));
        let command = parse("--pid 7 -- trace --path x").unwrap();
        assert_eq!(
            (command.task.is_none(), command.flags.command),
            (true, ["trace", "--path", "x"].map(Into::into).to_vec())
        );
        assert!(parse("").unwrap().task.is_none());
        assert!(parse("trace --path /m --format html --output f -- cat /m/x").unwrap().task.is_some());
        for wrong in ["trace", "trace -- cat", "--pid 7 trace --path x", "trace --path x cat", "help"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
