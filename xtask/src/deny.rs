//! `cargo xtask deny`: licences, sources and bans of everything in Cargo.lock against .deny.toml, by cargo-deny. Two seconds,
//! and no network but for crates that no build has fetched yet; `lint` does the same where set-up has installed the tool.
//! Advisories are left out here, for their database comes from the network.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{cmd, setup};

/// Installs cargo-deny if need be, and checks.
pub(crate) fn deny() -> Result<()> {
    check(&setup::deny()?)
}

/// Checks with this cargo-deny.
pub(crate) fn check(tool: &Path) -> Result<()> {
    let mut command = Command::new(tool);
    cmd::run(command.args(["check", "licenses", "bans", "sources"]).current_dir(cmd::root()))
}
