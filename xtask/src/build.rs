//! `cargo xtask build`: the release agent with its eBPF programs inside, at target/release/ossc-agent.
//! ossc-agent's build script compiles the programs, so `cargo build` alone does the same; this command first
//! says by which toolchain, or how to get one.

use anyhow::{Error, Result};

use crate::cmd;
use crate::toolchain::Toolchain;

/// Builds it.
pub(crate) fn build() -> Result<()> {
    let Toolchain { compiler, linker } = Toolchain::find().map_err(Error::msg)?;
    println!("build: the eBPF programs by {} with {}", compiler.name, linker.display());
    cmd::run(&mut cmd::cargo(&["build", "--release", "--package=ossc-agent"]))
}
