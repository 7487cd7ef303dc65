//! The reader program, `xtask/bench/reader.c`: compiled once into target/bench, run once a sample.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cmd;

/// What the program prints: how long it took, and how much of that was in its (shuffled) read calls.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Printed {
    pub(super) seconds: f64,
    pub(super) in_reads: f64,
}

/// The compiled program.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) program: PathBuf,
}

impl Reader {
    /// Compiles it with the system's C compiler.
    pub(super) fn compile() -> Result<Self> {
        let target = cmd::root().join("target/bench");
        fs::create_dir_all(&target)?;
        let program = target.join("reader");
        cmd::run(
            Command::new("cc")
                .args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
                .arg(&program)
                .arg(cmd::root().join("xtask/bench/reader.c")),
        )?;
        Ok(Self { program })
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
