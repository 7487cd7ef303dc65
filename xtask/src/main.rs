//! `cargo xtask`: everything a developer or continuous integration runs, in one place and in the
//! language of the project. This file is the command line only; each command is a module of its name.
//! A command ends with status 0 or says on standard error which step failed and why.

mod agent_log;
mod bench;
mod build;
mod cluster;
mod cmd;
mod demo;
mod deny;
mod dist;
mod fuzz;
mod lint;
mod plot;
mod server;
mod setup;
mod soak;
mod test;
mod tidy;
mod toolchain;
mod vm;

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
    /// Set up, build, lint, then run every test (root; what continuous integration runs, with --all)
    Test(test::Args),
    /// Pack the release agent: .deb, .rpm and .tar.gz in target/dist; --try installs them on a fresh Debian
    Dist(dist::Args),
    /// Check licences and sources of all dependencies against .deny.toml
    Deny,
    /// Formatting, clippy, and the project's own rules about its source tree
    Lint,
    /// Run the fuzzers of tests/fuzz on every parser of outside bytes (nightly Rust)
    Fuzz(fuzz::Args),
    /// Load random models under random readers, faults, kills and evictions, and check all that is promised (root)
    Soak(soak::Args),
    /// Measure the agent against recv + pwrite alone and write docs/bench/README.md (root)
    Bench(bench::Args),
    /// Load a model on many nodes that share blocks, each in a network namespace behind a limited link (root)
    Cluster(cluster::Args),
    /// Check the agent on several kernels, in emulated machines and here, and write docs/kernel-support.md (root)
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Setup => setup::setup(),
        Command::Build => build::build(),
        Command::Demo => demo::demo(),
        Command::Test(args) => test::test(&args),
        Command::Dist(args) => dist::dist(&args),
        Command::Deny => deny::deny(),
        Command::Lint => lint::lint(),
        Command::Fuzz(args) => fuzz::fuzz(&args),
        Command::Soak(args) => soak::soak(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Cluster(args) => cluster::cluster(&args),
        Command::Vm(args) => vm::vm(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
