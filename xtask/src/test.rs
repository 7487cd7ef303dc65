//! `cargo xtask test`: set up, build, lint and test, in this order, stopping at the first step that
//! fails. With `--all` it goes on with the kernels of `vm`; continuous integration runs exactly that. A closing
//! summary gives each step's time.
//!
//! The end-to-end tests drive the release agent, the one that users run. Those that need a switch which
//! no release build has, such as the gate turned off to prove that a test can fail, drive a debug agent.
//! They find both, and the Python with the official SDKs, by `OSSC_*` variables.

use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{build, cmd, lint, setup, toolchain, vm};

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also check older kernels in emulated machines, as `vm` does; some minutes more
    #[arg(long)]
    all: bool,
}

/// Set-up to last test.
pub(crate) fn test(args: &Args) -> Result<()> {
    cmd::require_root("test")?;
    let mut steps = Steps::default();
    let mut outcome = tests_of_this_machine(&mut steps);
    if args.all && outcome.is_ok() {
        outcome = steps.run("kernels", kernels);
    }
    steps.print();
    outcome
}

fn tests_of_this_machine(steps: &mut Steps) -> Result<()> {
    steps.run("setup", setup::setup)?;
    steps.run("build", build::build)?;
    steps.run("lint", lint::lint)?;
    steps.run("debug build", || {
        cmd::run(&mut cmd::cargo(&["build", "-p", "ossc-agent", "-p", "oss-server", "-p", "e2e"]))
    })?;
    // No test is skipped because another failed: one run tells everything.
    let unit = steps.run("unit tests", || tests(&["--workspace", "--exclude=ossc-ebpf", "--exclude=e2e"], 1));
    steps.run("end-to-end", || tests(&["--package=e2e"], THREADS)).and(unit)
}

/// End-to-end tests at a time, for each processor: most of them wait, for a limited rate, a timeout of the agent, or their
/// turn (`tests/e2e/src/turn.rs`).
const THREADS: usize = 4;

fn tests(packages: &[&str], threads: usize) -> Result<()> {
    let target = cmd::root().join("target");
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    cmd::run(
        cmd::cargo(&["test", "--no-fail-fast"])
            .args(packages)
            .env("RUST_TEST_THREADS", (threads * processors).to_string())
            .env("OSSC_AGENT", target.join("release/ossc-agent"))
            .env("OSSC_AGENT_DEBUG", target.join("debug/ossc-agent"))
            .env("OSSC_TEST_PYTHON", toolchain::venv_python()?),
    )
}

fn kernels() -> Result<()> {
    vm::run(&vm::Choice::ALL, &cmd::root().join("target/release/ossc-agent")).map(drop)
}

/// What has run so far, for the summary.
#[derive(Debug, Default)]
struct Steps {
    /// Name, time taken, and whether it passed; in the order they ran.
    done: Vec<(&'static str, Duration, bool)>,
}

impl Steps {
    fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) -> Result<()> {
        eprintln!("== {name}");
        let started = Instant::now();
        let outcome = step();
        self.done.push((name, started.elapsed(), outcome.is_ok()));
        outcome.with_context(|| format!("step `{name}`"))
    }

    fn print(&self) {
        eprintln!("== summary");
        for (name, time, passed) in &self.done {
            let word = if *passed { "ok" } else { "FAILED" };
            eprintln!("{name:<12} {word:<6} {:>7.1} s", time.as_secs_f64());
        }
    }
}
