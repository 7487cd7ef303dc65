//! `cargo xtask deny`: licences, sources and bans of everything in Cargo.lock against .deny.toml, by cargo-deny. Not a
//! part of `test`: compiling cargo-deny takes many minutes on a small machine, and nothing changes without a change of
//! Cargo.lock. Advisories are left out here, for their database comes from the network.

use std::process::Command;

use anyhow::Result;

use crate::{cmd, setup};

/// Checks them.
pub(crate) fn deny() -> Result<()> {
    let tool = setup::cargo_tool("cargo-deny", "0.20.2")?;
    let mut command = Command::new(tool);
    cmd::run(command.args(["check", "licenses", "bans", "sources"]).current_dir(cmd::root()))
}
