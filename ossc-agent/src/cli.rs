//! The door: parses the command line, sets up logging, runs the agent and turns its outcome into an exit
//! status. Thin on purpose: every decision is in `config` or `agent`.

mod doctor;
mod exit;
mod logging;
mod manifest;
mod peers;
mod plan;
mod reference;
mod status;
mod trace;
mod verify;

use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{self, Environment, Flags, Log, LogFormat, LogLevel};
use crate::sys::{self, privileges};
use crate::{agent, keeper};

pub use exit::Exit;
pub use reference::reference;

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
    /// Make the certificates by which nodes that share blocks know each other
    #[command(subcommand)]
    Peers(peers::Peers),
    /// Examine this machine, the way to OSS and the model for what a load needs
    Doctor(Box<doctor::Doctor>),
    /// Show, export, import or forget the orders in which models are read
    Plan(plan::Plan),
    /// Compare the files of a model with OSS, beside an agent or without one
    Verify(verify::Verify),
    /// Make and check signed manifests, which prove each block that comes from another node
    #[command(subcommand)]
    Manifest(manifest::Manifest),
    /// Show how far the load of a model is, who waits, and where the bytes come from
    Status(status::Status),
    /// End the load of a model: its readers get errors, what was fetched is kept
    Cancel(status::Cancel),
    /// Have files of a model fetched before all that no reader waits for
    Prefetch(status::Prefetch),
    /// Free the space of complete files that no program has open; the next reader has them fetched again
    Evict(status::Evict),
}

/// What an agent gives the keeper that it starts.
#[derive(Debug, Parser)]
#[command(name = "ossc-agent keeper", about = "Holds readers for an agent; started by it, never by hand")]
struct KeeperCli {
    #[arg(long)]
    model_dir: PathBuf,
    #[arg(long)]
    log_level: LogLevel,
    #[arg(long)]
    log_format: LogFormat,
    #[arg(long)]
    log_path: Option<PathBuf>,
}

/// The command line as clap knows it, for whoever writes manuals and completions from it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program with this process's arguments; `main` ends with what it returns.
#[must_use]
pub fn run() -> Exit {
    // Before clap, so that the hidden word changes nothing of what it accepts and shows.
    if std::env::args_os().nth(1).is_some_and(|first| first == keeper::ARGUMENT) {
        return run_keeper();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::of_clap(&error),
    };
    match cli.task {
        Some(Task::Doctor(doctor)) => return doctor.run(),
        Some(Task::Plan(plan)) => return plan.run(),
        Some(Task::Peers(peers)) => return peers.run(),
        Some(Task::Trace(trace)) => return trace.run(),
        Some(Task::Verify(verify)) => return verify.run(),
        Some(Task::Manifest(manifest)) => return manifest.run(),
        Some(Task::Status(status)) => return status.run(),
        Some(Task::Cancel(cancel)) => return cancel.run(),
        Some(Task::Prefetch(prefetch)) => return prefetch.run(),
        Some(Task::Evict(evict)) => return evict.run(),
        None => {}
    }
    // Before anything opens descriptors: those of held readers have numbers that must be free.
    let given = agent::Given::take();
    let environment = Environment::of_process();
    // From here on only the checked settings have them, wiped when dropped.
    privileges::wipe_variables(&config::SECRETS);
    if let Err(source) = privileges::conceal() {
        return exit::report(
            &agent::Error::System(sys::Error::when("keep memory out of core files")(source)),
            false,
        );
    }
    let config = match config::resolve(&cli.flags, &environment) {
        Ok(config) => config,
        Err(error) => return exit::report(&agent::Error::from(error), false),
    };
    let log = match logging::start(&config.log) {
        Ok(log) => log,
        Err(error) => return exit::report(&error, false),
    };
    let log_on_stderr = log.is_none();
    match agent::run(config, given, log) {
        Ok(outcome) => Exit::from(outcome),
        Err(error) => exit::report(&error, log_on_stderr),
    }
}

fn run_keeper() -> Exit {
    let cli = match KeeperCli::try_parse_from(std::env::args_os().skip(1)) {
        Ok(cli) => cli,
        Err(error) => return exit::of_clap(&error),
    };
    let log = Log { level: cli.log_level, format: cli.log_format, path: cli.log_path };
    if let Err(error) = logging::start_watching(&log) {
        return exit::report(&error, false);
    }
    match keeper::run(&keeper::Config { model_dir: cli.model_dir }) {
        Ok(()) => Exit::from(agent::Outcome::Complete),
        Err(source) => {
            exit::report(&agent::Error::System(sys::Error::when("keep readers held")(source)), true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_a_command_need_no_task_and_tasks_no_flags() {
        Cli::command().debug_assert();
        let parse =
            |line: &str| Cli::try_parse_from(["ossc-agent"].into_iter().chain(line.split_whitespace()));
        let command = parse("--pid 7 -- plan show -x").unwrap();
        assert_eq!(
            (command.task.is_none(), command.flags.command),
            (true, ["plan", "show", "-x"].map(Into::into).to_vec())
        );
        assert!(parse("").unwrap().task.is_none());
        assert!(parse("plan show --json").unwrap().task.is_some());
        assert!(parse("plan forget --state-dir /s --all").unwrap().task.is_some());
        assert!(parse("trace --path /m --format html --output f -- cat /m/x").unwrap().task.is_some());
        for wrong in
            ["plan", "plan forget", "--pid 7 plan show", "show", "help", "trace", "trace --path x cat"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
