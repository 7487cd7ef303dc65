//! `cargo xtask soak`: random loads under readers, faults, kills, restarts and evictions, for minutes or hours. The soak
//! itself, and the list of what it asserts, is `e2e::soak`; here its programs are built and started.

use anyhow::Result;

use crate::{build, cmd};

/// How long, and what to repeat.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// No step begins after so many minutes
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Decides everything but time; a random one when it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Takes only this step of the seed
    #[arg(long)]
    step: Option<u64>,
}

/// Builds the release agent and the soak, and runs it.
pub(crate) fn soak(args: &Args) -> Result<()> {
    cmd::require_root("soak")?;
    build::build()?;
    cmd::run(&mut cmd::cargo(&["build", "-p", "e2e"]))?;
    let target = cmd::root().join("target");
    let mut soak = cmd::tied(target.join("debug/ossc-soak"));
    soak.env("OSSC_AGENT", target.join("release/ossc-agent"));
    soak.arg("--seconds").arg((args.minutes * 60).to_string());
    for (name, value) in [("--seed", args.seed), ("--step", args.step)] {
        if let Some(value) = value {
            soak.arg(name).arg(value.to_string());
        }
    }
    cmd::run(&mut soak)
}
