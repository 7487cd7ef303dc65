//! One load by the release agent, from the start of its process to the event that everything is
//! complete. What comes after (dropping the gate, ending) counts for its CPU time but not for the load.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use anyhow::{Context, Result, bail};

use super::measure::Usage;
use super::table::Sample;
use super::{PREFIX, Workload};
use crate::agent_log::{ALL_COMPLETE, Event};
use crate::cmd;
use crate::server::Server;

/// Loads the model into an empty directory, then removes it.
pub(super) fn run(server: &Server, workload: Workload, scratch: &Path) -> Result<Sample> {
    let work = tempfile::tempdir_in(scratch)?;
    let model_dir = work.path().join("models");
    fs::create_dir(&model_dir)?;
    let threads = threads(workload.connections)?;
    let report = work.path().join("usage.json");
    let mut command = cmd::tied(env::current_exe().context("cannot find our own program")?);
    command
        .args(["measure", "--report"])
        .arg(&report)
        .arg("--")
        .arg(cmd::root().join("target/release/ossc-agent"))
        .args(["--exit-when-complete", "--log-format", "json", "--model-dir"])
        .arg(&model_dir)
        .arg("--state-dir")
        .arg(work.path().join("state"))
        .args(["--threads", &threads.to_string()])
        .args(["--connections", &(workload.connections / threads).to_string()])
        .envs(server.environment(PREFIX));
    if let Some(ca_file) = server.ca_file() {
        command.arg("--ca-file").arg(ca_file);
    }
    let output = command.stdin(Stdio::null()).output().context("cannot start the agent")?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("the agent failed: {}\n{log}", output.status);
    }
    let usage: Usage =
        serde_json::from_str(&fs::read_to_string(&report).context("the agent was not measured")?)?;
    let complete = log.lines().filter_map(Event::parse).find(|event| event.message == ALL_COMPLETE);
    let complete = complete.with_context(|| format!("the agent never said `{ALL_COMPLETE}`:\n{log}"))?;
    // Beside the files there is the agent's own folder of ready files.
    let loaded: u64 = fs::read_dir(&model_dir)?
        .map(|entry| entry?.metadata())
        .filter_map(|found| found.map(|found| found.is_file().then_some(found.len())).transpose())
        .sum::<Result<u64, _>>()
        .context("cannot look at the loaded files")?;
    if loaded != workload.bytes() {
        bail!("the agent loaded {loaded} bytes instead of {}", workload.bytes());
    }
    work.close().context("cannot remove the loaded files")?;
    Ok(Sample {
        seconds: complete.timestamp.duration_since(usage.started).as_secs_f64(),
        cpu_seconds: usage.cpu_seconds,
        max_rss: Some(usage.max_rss),
    })
}

/// Over how many threads the agent spreads the connections, which it has equally many of for each thread.
fn threads(connections: u32) -> Result<u32> {
    let processors = thread::available_parallelism().context("cannot count processors")?.get();
    let most = connections.min(u32::try_from(processors).unwrap_or(u32::MAX));
    Ok((1..=most).rev().find(|threads| connections.is_multiple_of(*threads)).unwrap_or(1))
}
