//! `cargo xtask`: everything a developer or continuous integration runs, in one place and in the
//! language of the project. This file is the command line only; each command is a module of its name.
//! A command ends with status 0 or says on standard error which step failed and why.

mod agent_log;
mod bench;
mod build;
mod cluster;
mod cmd;
mod demo;
mod lint;
mod server;
mod setup;
mod test;
mod tidy;
mod toolchain;

use std::process::ExitCode;

use clap::Parser;

/// Everything a developer runs on ossc.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
enum Command {
    /// Install what a fresh machine lacks (packages, eBPF toolchain, Python of the tests), saying what it does
    Setup,
    /// Compile the release agent to target/release/ossc-agent
    Build,
    /// Load a real model with llama.cpp through the agent from a local test server (root; no cloud account)
    Demo,
    /// Set up, build, lint, then run every test (root; what continuous integration runs)
    Test,
    /// Formatting, clippy, and the project's own rules about its source tree
    Lint,
    /// Measure the agent against recv + pwrite alone and write docs/bench/README.md (root)
    Bench(bench::Args),
    /// Load a model on many nodes that share blocks, each in a network namespace behind a limited link (root)
    Cluster(cluster::Args),
    /// Run a program and print what it used as JSON; `bench` runs itself with this
    #[command(hide = true)]
    Measure(bench::MeasureArgs),
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Setup => setup::setup(),
        Command::Build => build::build(),
        Command::Demo => demo::demo(),
        Command::Test => test::test(),
        Command::Lint => lint::lint(),
        Command::Bench(args) => bench::bench(&args),
        Command::Cluster(args) => cluster::cluster(&args),
        Command::Measure(args) => bench::measure(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
