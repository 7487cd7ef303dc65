//! `cargo xtask lint`: what a reviewer should never have to say. rustfmt and clippy first, then the
//! rules of [`crate::tidy`]. The eBPF crate is left out of clippy, because it only compiles for the
//! kernel's machine; tidy reads it like every other file.

use anyhow::Result;

use crate::{cmd, tidy};

/// Runs all three; stops at the first that fails.
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
    tidy::tidy(&cmd::root())
}
