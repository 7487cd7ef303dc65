//! The reader program, `xtask/bench/reader.c`: compiled once into target/bench, run once a sample.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::compile;
use crate::cmd;

/// What the program prints: how long it took, and how much of that was in its (shuffled) read calls.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Printed {
    pub(super) seconds: f64,
    pub(super) in_reads: f64,
    /// Of whole passes: when it ended in seconds since 1970, its processor time, and how many bytes there were.
    #[serde(default)]
    pub(super) ended: f64,
    #[serde(default)]
    pub(super) cpu_seconds: f64,
    #[serde(default)]
    pub(super) bytes: u64,
}

/// The compiled program.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) program: PathBuf,
}

impl Reader {
    /// Compiles it.
    pub(super) fn compile() -> Result<Self> {
        Ok(Self { program: compile("reader")? })
    }

    /// Runs it with these arguments.
    pub(super) fn run(&self, arguments: &[String]) -> Result<Printed> {
        parse(&cmd::output(cmd::tied(&self.program).args(arguments))?)
    }
}

/// What it printed, which may stand between lines of others.
pub(super) fn parse(output: &str) -> Result<Printed> {
    let printed = output.lines().find_map(|line| serde_json::from_str(line).ok());
    printed.context("the reader printed no figures")
}
