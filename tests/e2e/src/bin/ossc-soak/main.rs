//! `ossc-soak`: runs the soak of `e2e::soak` for as long as asked. Driven by `cargo xtask soak`. Prints a line for each
//! step and the figures at the end; a failed step is told with the seed and the number that repeat it, and ends the
//! program with status 1 after the others.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use e2e::soak::{Config, run};

/// Loads random models under random readers, faults and kills, and checks all that is promised.
#[derive(Debug, Parser)]
struct Arguments {
    /// No step begins after so many seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Decides everything but time; a random one when it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Takes only this step.
    #[arg(long)]
    step: Option<u64>,
}

fn main() -> ExitCode {
    match soak(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn soak(arguments: &Arguments) -> anyhow::Result<()> {
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let reader: PathBuf = std::env::current_exe().context("own path")?.with_file_name("ossc-reader");
    let time = Duration::from_secs(arguments.seconds);
    println!("soak: seed {seed}");
    let figures =
        run(&Config { seed, time, step: arguments.step, alone: true, reader }, |line| println!("{line}"))?;
    println!("soak: seed {seed}, no failure\n{figures}");
    Ok(())
}
