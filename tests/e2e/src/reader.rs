//! Starts the reader binary and says how it ended.
//!
//! Driven by the tests: a [`Reading`] describes what to read and how, [`Reader`] is one running process of it, and
//! [`Outcome`] is its exit status in words. Several readers run at once; a dropped one is killed.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use crate::content::Target;
use crate::process::Process;

/// Every kind of read that works on any file, by its name on the reader's command line.
pub const KINDS: [&str; 19] = [
    "read",
    "pread",
    "readv",
    "preadv2",
    "preadv2-nowait",
    "mmap-private",
    "mmap-shared",
    "map-populate",
    "madv-populate-read",
    "splice",
    "sendfile",
    "copy-file-range",
    "o-direct",
    "io-uring",
    "io-uring-registered",
    "cp",
    "sha256sum",
    "dd",
    "python-mmap",
];

/// Kinds that are held as a process, where they are held: no call of theirs could end with an errno.
pub const PROCESS_KINDS: [&str; 2] = ["mremap", "mmap-forked"];

/// Those of [`KINDS`] that start a program, or read a whole file, for each read: a few of them are enough.
pub const SLOW_KINDS: [&str; 4] = ["cp", "sha256sum", "dd", "python-mmap"];

/// The kind that needs safetensors files.
pub const SAFETENSORS: &str = "safetensors";

/// How a reader ended. The texts are what it printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every byte was right.
    Right,
    /// A byte was wrong.
    WrongByte(String),
    /// A read ended with an errno.
    Errno(String),
    /// The reader could not do its work, or was killed.
    Broken(String),
}

/// What to read and how.
#[derive(Debug, Clone)]
pub struct Reading {
    program: PathBuf,
    arguments: Vec<String>,
}

impl Reading {
    /// Reads of this kind by the reader binary at `program`.
    #[must_use]
    pub fn new(program: &Path, kind: &str) -> Self {
        Self { program: program.to_owned(), arguments: vec![format!("--kind={kind}")] }
    }

    /// Decides which ranges are read.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        self.option("seed", seed)
    }

    /// Reads of each thread.
    #[must_use]
    pub fn ops(self, ops: u64) -> Self {
        self.option("ops", ops)
    }

    /// Threads reading at once.
    #[must_use]
    pub fn threads(self, threads: u64) -> Self {
        self.option("threads", threads)
    }

    /// Reads `length` bytes at `offset` of each file.
    #[must_use]
    pub fn at(self, offset: u64, length: u64) -> Self {
        self.option("range", format!("{offset}+{length}"))
    }

    /// Reads the last bytes of each file.
    #[must_use]
    pub fn last(self, length: u64) -> Self {
        self.option("range", format!("-{length}"))
    }

    /// Passes over errnos.
    #[must_use]
    pub fn any_errno(self) -> Self {
        self.option("expect-errno", "any")
    }

    /// Where copies go.
    #[must_use]
    pub fn scratch(self, directory: &Path) -> Self {
        self.option("scratch", directory.display())
    }

    fn option(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.arguments.push(format!("--{name}={value}"));
        self
    }

    /// Starts it on these files.
    pub fn start<'a>(&self, targets: impl IntoIterator<Item = &'a Target>) -> anyhow::Result<Reader> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(targets.into_iter().map(ToString::to_string));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Ok(Reader { process: Process::spawn(&mut command)?, name: self.arguments.join(" ") })
    }

    /// Starts it on these files and waits until it ends.
    pub fn run<'a>(
        &self,
        targets: impl IntoIterator<Item = &'a Target>,
        limit: Duration,
    ) -> anyhow::Result<Outcome> {
        self.start(targets)?.finish(limit)
    }
}

/// A running reader.
#[derive(Debug)]
pub struct Reader {
    process: Process,
    name: String,
}

impl Reader {
    /// The process, for signals and to see whether it still waits.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its options, to tell readers apart in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until it ends; an error when it has not within `limit`.
    pub fn finish(mut self, limit: Duration) -> anyhow::Result<Outcome> {
        let status = self.process.wait(limit).with_context(|| format!("reader {}", self.name))?;
        let mut told = String::new();
        // What a reader tells are a few lines, which the pipe has held for us.
        let mut pipe = self.process.child().stderr.take().context("the reader's standard error")?;
        pipe.read_to_string(&mut told).context("read what the reader told")?;
        let told = told.trim().to_owned();
        Ok(match status.code() {
            Some(0) => Outcome::Right,
            Some(1) => Outcome::WrongByte(told),
            Some(2) => Outcome::Errno(told),
            _ => Outcome::Broken(format!("{status}: {told}")),
        })
    }
}
