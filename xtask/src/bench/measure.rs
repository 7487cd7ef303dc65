//! `cargo xtask measure`, hidden: runs one program and writes what it used as JSON. The kernel counts
//! the CPU time and the largest resident set of ended children for their parent, over all children
//! together; a process that has had only this one child gets this child's figures exactly.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result};
use jiff::Timestamp;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use crate::cmd;

/// Options of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the figures are written
    #[arg(long)]
    report: PathBuf,
    /// Program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// What a program used.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Usage {
    /// Just before its process was made.
    pub(super) started: Timestamp,
    /// From then to its end.
    pub(super) seconds: f64,
    /// User and system time of the program and the children it has waited for.
    pub(super) cpu_seconds: f64,
    /// Largest resident set in bytes.
    pub(super) max_rss: u64,
}

/// ru_maxrss is in kilobytes of this many bytes (getrusage(2)).
const RSS_UNIT: u64 = 1024;

/// Runs the command, then writes the report; fails when the command does.
pub(crate) fn measure(args: &Args) -> Result<()> {
    let (program, arguments) = args.command.split_first().context("no program to measure")?;
    let mut command = cmd::tied(program);
    command.args(arguments).stdin(Stdio::null());
    let (started, clock) = (Timestamp::now(), Instant::now());
    let status = command.status().with_context(|| format!("cannot start {program}"))?;
    let seconds = clock.elapsed().as_secs_f64();
    cmd::succeeded(status, &command)?;
    let children = getrusage(UsageWho::RUSAGE_CHILDREN).context("getrusage")?;
    let usage = Usage {
        started,
        seconds,
        cpu_seconds: as_seconds(children.user_time()) + as_seconds(children.system_time()),
        max_rss: u64::try_from(children.max_rss()).unwrap_or(0) * RSS_UNIT,
    };
    fs::write(&args.report, serde_json::to_string(&usage)?)
        .with_context(|| format!("cannot write {}", args.report.display()))
}
fn as_seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}
