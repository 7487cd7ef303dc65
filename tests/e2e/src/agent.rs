//! Starts the real agent, the built binary, the way an operator does: flags, environment, a signal to end it.
//!
//! Driven by the tests: [`Start`] says how to start it, [`Agent`] is the running one. Its environment holds nothing
//! of the machine's own but PATH, its state lies in a directory that the test gives. A dropped agent is killed with
//! all it started.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;

use crate::events::{Event, Events, text};
use crate::manager::Manager;
use crate::process::Process;
use crate::sys;

/// How long a test waits for the agent: many times what any step takes on a loaded machine, so that only a
/// hanging agent meets it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Files can be opened from now on.
pub const FILES_VISIBLE: &str = "files visible";
/// A reader waits for bytes.
pub const READER_HELD: &str = "reader held";
/// It got them, or an errno.
pub const READER_RELEASED: &str = "reader released";
/// One file is complete.
pub const FILE_COMPLETE: &str = "file complete";
/// Every file is complete.
pub const ALL_COMPLETE: &str = "all files complete";

/// Documented exit statuses.
pub mod exit {
    /// Done, or ended on request.
    pub const OK: i32 = 0;
    /// A fault of the agent itself.
    pub const INTERNAL: i32 = 1;
    /// Command line or configuration.
    pub const USAGE: i32 = 2;
    /// OSS refused: signature, permission, not found.
    pub const REFUSED: i32 = 3;
    /// The local file system: space, kind, a file in the way.
    pub const LOCAL: i32 = 4;
    /// The kernel lacks what the gate needs.
    pub const KERNEL: i32 = 5;
    /// OSS could not be reached.
    pub const NETWORK: i32 = 6;
}

/// Which build of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// The one under test: `OSSC_AGENT`, or the one beside this test, or the release build.
    UnderTest,
    /// One with debug assertions, which has the test switches: `OSSC_AGENT_DEBUG`, or the debug build.
    Debug,
}

impl Build {
    /// The binary.
    pub fn binary(self) -> anyhow::Result<PathBuf> {
        let variable = match self {
            Self::UnderTest => "OSSC_AGENT",
            Self::Debug => "OSSC_AGENT_DEBUG",
        };
        if let Some(path) = std::env::var_os(variable) {
            let path = PathBuf::from(path);
            // The agent is started with a working directory of its own.
            return path.canonicalize().with_context(|| format!("{variable} names {}", path.display()));
        }
        // target/debug/deps/main-0123, and in the same place when cargo runs it.
        let test = std::env::current_exe().context("own path")?;
        let profile = test.parent().and_then(Path::parent).context("the target folder")?;
        let target = profile.parent().context("the target folder")?;
        let candidates = match self {
            Self::UnderTest => vec![profile.to_owned(), target.join("debug"), target.join("release")],
            Self::Debug => vec![target.join("debug")],
        };
        let found = candidates.iter().map(|folder| folder.join("ossc-agent")).find(|path| path.is_file());
        found.with_context(|| {
            format!("no ossc-agent below {}: run `cargo xtask build`, or set {variable}", target.display())
        })
    }
}

/// The flag that bounds the life of the keeper of a killed agent.
const DEADLINE: &str = "--takeover-deadline";
/// Its value unless a test gives one: longer than any test needs to start the next agent, and short, since the
/// keeper of an agent that a failing test killed outlives the test by so much.
const KEEPER_SECONDS: &str = "30";

/// How to start an agent.
#[derive(Debug, Clone)]
pub struct Start {
    build: Build,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    command: Vec<OsString>,
    state: PathBuf,
    /// Words before the program, which run it.
    prefix: Vec<OsString>,
    /// What a service manager gives it, by name.
    given: Vec<(String, Arc<OwnedFd>)>,
}

impl Start {
    /// An agent that keeps its state, and its working directory, in `state`.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self {
            build: Build::UnderTest,
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            command: Vec::new(),
            state: state.to_owned(),
            prefix: Vec::new(),
            given: Vec::new(),
        }
    }

    /// Uses another build.
    #[must_use]
    pub fn build(mut self, build: Build) -> Self {
        self.build = build;
        self
    }

    /// Adds `--name value`.
    #[must_use]
    pub fn option(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.argument(name).argument(value)
    }

    /// Adds one argument as it is.
    #[must_use]
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Sets an environment variable; the last one set counts.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.insert(name.into(), value.as_ref().to_owned());
        self
    }

    /// Leaves an environment variable unset.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.environment.remove(OsStr::new(name));
        self
    }

    /// Adds `-- COMMAND`.
    #[must_use]
    pub fn command<T: AsRef<OsStr>>(mut self, command: impl IntoIterator<Item = T>) -> Self {
        self.command = command.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// Has another program run it: one that changes its own limits or rights and then executes what follows.
    #[must_use]
    pub fn through<T: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.prefix = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// Starts it as a service of this manager, with what the manager keeps for it now.
    #[must_use]
    pub fn under(mut self, manager: &Manager) -> Self {
        self.given = manager.kept();
        self.variable("NOTIFY_SOCKET", manager.socket())
    }

    /// Starts it.
    pub fn start(&self) -> anyhow::Result<Agent> {
        let binary = self.build.binary()?;
        let mut command = if let Some((program, words)) = self.prefix.split_first() {
            let mut command = Command::new(program);
            command.args(words).arg(binary);
            command
        } else if self.given.is_empty() {
            Command::new(binary)
        } else {
            // The number of the process that is to use them, which only it knows.
            let mut command = Command::new("sh");
            command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(binary);
            command
        };
        command.env_clear();
        if !self.given.is_empty() {
            let names: Vec<_> = self.given.iter().map(|(name, _)| name.as_str()).collect();
            command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
            let descriptors: Vec<_> = self.given.iter().map(|(_, fd)| fd.as_ref()).collect();
            sys::give(&mut command, &descriptors).context("descriptors of the service manager")?;
        }
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.env("HOME", &self.state).env("OSSC_STATE_DIR", &self.state).current_dir(&self.state);
        command.envs(&self.environment);
        command.args(["--log-format", "json"]).args(&self.arguments);
        if !self.arguments.iter().any(|argument| argument == DEADLINE) {
            command.args([DEADLINE, KEEPER_SECONDS]);
        }
        if !self.command.is_empty() {
            command.arg("--").args(&self.command);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command)?;
        let log = process.child().stderr.take().context("the agent's standard error")?;
        let output = process.child().stdout.take().context("the agent's standard output")?;
        Ok(Agent { process, log: Events::collect(log), output: Events::collect(output) })
    }

    /// Starts it and waits for its end, which must come by itself.
    pub fn run(&self) -> anyhow::Result<Ended> {
        self.start()?.finish()
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    log: Events,
    output: Events,
}

/// An agent that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its whole log, with what a COMMAND wrote to standard error.
    pub log: Vec<Event>,
    /// What it or its COMMAND wrote to standard output.
    pub output: String,
}

impl Ended {
    /// Its log as text.
    #[must_use]
    pub fn text(&self) -> String {
        text(&self.log)
    }

    /// An error with the log unless it ended with this status.
    pub fn expect(&self, status: i32) -> anyhow::Result<()> {
        if self.status.code() == Some(status) {
            return Ok(());
        }
        bail!("the agent ended with {}, not with {status}. Its log:\n{}", self.status, self.text())
    }
}

impl Agent {
    /// Waits for an event of this message.
    pub fn wait_for(&self, message: &str) -> anyhow::Result<Event> {
        self.log.wait_for(message, PATIENCE, |event| event.message() == message)
    }

    /// The log so far.
    #[must_use]
    pub fn log(&self) -> &Events {
        &self.log
    }

    /// What it or its COMMAND wrote to standard output so far.
    #[must_use]
    pub fn output(&self) -> &Events {
        &self.output
    }

    /// The process, for signals and for its numbers in /proc.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Sends SIGINT and waits for the end: readers of incomplete files fail.
    pub fn interrupt(self) -> anyhow::Result<Ended> {
        self.process.signal(Signal::SIGINT)?;
        self.finish()
    }

    /// Sends SIGTERM and waits for the end: readers of incomplete files wait for another agent.
    pub fn stop(self) -> anyhow::Result<Ended> {
        self.process.signal(Signal::SIGTERM)?;
        self.finish()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> anyhow::Result<Ended> {
        let status = match self.process.wait(PATIENCE) {
            Ok(status) => status,
            Err(error) => bail!("{error:#}. Its log:\n{}", text(&self.log.so_far())),
        };
        let output = text(&self.output.all(PATIENCE));
        Ok(Ended { status, log: self.log.all(PATIENCE), output })
    }
}
