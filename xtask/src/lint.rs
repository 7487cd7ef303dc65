//! `cargo xtask lint`: what a reviewer should never have to say. rustfmt and clippy first, then the rules of
//! [`crate::tidy`], then licences and sources of the dependencies where cargo-deny is installed. The eBPF crate is left out of
//! clippy, because it only compiles for the kernel's machine; tidy reads it like every other file.

use anyhow::Result;

use crate::{cmd, deny, setup, tidy};

/// Runs all of them; stops at the first that fails.
pub(crate) fn lint() -> Result<()> {
    cmd::run(&mut cmd::cargo(&["fmt", "--check"]))?;
    cmd::run(&mut cmd::cargo(&["fmt", "--check", "--manifest-path", "tests/fuzz/Cargo.toml"]))?;
    cmd::run(&mut cmd::cargo(&[
        "clippy",
        "--workspace",
        "--exclude",
        "ossc-ebpf",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    tidy::tidy(&cmd::root())?;
    let Some(tool) = setup::installed_deny() else {
        println!("lint: licences of dependencies are not checked; `cargo xtask setup` installs cargo-deny");
        return Ok(());
    };
    deny::check(&tool)
}
