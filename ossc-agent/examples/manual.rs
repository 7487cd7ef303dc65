//! Writes what packages have besides the program and what only the program knows: its manual pages, and completions
//! for shells. `cargo xtask dist` runs it with the directory to write to; nothing of it is in the agent itself.

use std::path::PathBuf;

use anyhow::Context;
use clap_complete::{Shell, generate_to};

const PROGRAM: &str = "ossc-agent";

fn main() -> anyhow::Result<()> {
    let directory =
        std::env::args_os().nth(1).map(PathBuf::from).context("name the directory to write to")?;
    let mut command = ossc_agent::cli::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, PROGRAM, &directory).with_context(|| format!("{shell}"))?;
    }
    clap_mangen::generate_to(command, &directory).context("manual pages")
}
