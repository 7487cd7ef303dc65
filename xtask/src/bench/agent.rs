//! One load by the release agent, from the start of its process to the event that everything is complete; its
//! processor time is what it has used until then, start-up included. What comes after (dropping the gate, writing
//! to the disk, ending) counts for neither, as it does not for the floor.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{ChildStderr, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use nix::unistd::{SysconfVar, sysconf};
use tempfile::TempDir;

use super::table::Sample;
use super::timeline::Watch;
use super::{PREFIX, Workload};
use crate::agent_log::{ALL_COMPLETE, Event};
use crate::cmd::{self, Guarded};
use crate::server::Server;

/// A running agent.
#[derive(Debug)]
pub(super) struct Agent {
    process: Guarded,
    log: BufReader<ChildStderr>,
    started: Timestamp,
}

/// How to start it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options<'a> {
    /// Of the keys.
    pub(super) prefix: &'a str,
    pub(super) connections: u32,
    /// Addresses to connect from, if any.
    pub(super) sources: &'a str,
    /// Until it is told to end.
    pub(super) stays: bool,
}

/// A load under way.
#[derive(Debug)]
pub(super) struct Load {
    agent: Agent,
    /// Has the model directory.
    work: TempDir,
}

/// Loads the model into an empty directory, then removes it.
pub(super) fn run(server: &Server, workload: Workload, scratch: &Path) -> Result<Sample> {
    Ok(watched(server, workload, scratch)?.0)
}

/// The same, and what was written when.
pub(super) fn watched(
    server: &Server,
    workload: Workload,
    scratch: &Path,
) -> Result<(Sample, Vec<(f64, f64)>)> {
    let mut load = Load::start(server, workload, "", scratch)?;
    let watch = Watch::start(load.agent.pid());
    let sample = load.finish(workload)?;
    Ok((sample, watch.end()?))
}

impl Agent {
    /// Starts it in the calling thread's network namespace to load into a directory that has, or gets, `models` and
    /// `state`.
    pub(super) fn start(server: &Server, options: Options<'_>, work: &Path) -> Result<Self> {
        let Options { prefix, connections, sources, stays } = options;
        let model_dir = work.join("models");
        fs::create_dir_all(&model_dir)?;
        let threads = threads(connections)?;
        let mut command = cmd::tied(cmd::root().join("target/release/ossc-agent"));
        command
            .args((!stays).then_some("--exit-when-complete"))
            .args(["--log-format", "json", "--model-dir"])
            .arg(&model_dir)
            .arg("--state-dir")
            .arg(work.join("state"))
            .args(["--threads", &threads.to_string()])
            .args(["--connections", &(connections / threads).to_string()])
            .envs(server.environment(prefix));
        if !sources.is_empty() {
            command.env("HTTP_SOURCE_IP", sources);
        }
        if let Some(ca_file) = server.ca_file() {
            command.arg("--ca-file").arg(ca_file);
        }
        let started = Timestamp::now();
        let mut process = Guarded::spawn(command.stdin(Stdio::null()).stderr(Stdio::piped()))?;
        let log = process.child().stderr.take().context("the agent has no log")?;
        Ok(Self { process, log: BufReader::new(log), started })
    }

    pub(super) fn pid(&mut self) -> u32 {
        self.process.child().id()
    }

    /// Waits until it says this.
    pub(super) fn wait_for(&mut self, message: &str) -> Result<Event> {
        let mut log = String::new();
        loop {
            let begin = log.len();
            if self.log.read_line(&mut log).context("cannot read the agent's log")? == 0 {
                bail!("the agent never said `{message}`:\n{log}");
            }
            let event = log.get(begin..).and_then(Event::parse);
            if let Some(event) = event.filter(|event| event.message == message) {
                return Ok(event);
            }
        }
    }

    /// Waits until every file is complete.
    pub(super) fn complete(&mut self) -> Result<Sample> {
        let complete = self.wait_for(ALL_COMPLETE)?;
        let (cpu_seconds, max_rss) = used(self.pid())?;
        let seconds = complete.timestamp.duration_since(self.started).as_secs_f64();
        Ok(Sample { seconds, cpu_seconds, max_rss: Some(max_rss) })
    }

    /// Waits for its end.
    pub(super) fn end(mut self) -> Result<()> {
        let mut log = String::new();
        self.log.read_to_string(&mut log).context("cannot read the agent's log")?;
        let status = self.process.child().wait().context("cannot wait for the agent")?;
        ensure!(status.success(), "the agent failed: {status}\n{log}");
        Ok(())
    }
}

impl Load {
    /// Starts the agent on an empty directory.
    pub(super) fn start(server: &Server, workload: Workload, sources: &str, scratch: &Path) -> Result<Self> {
        let work = tempfile::tempdir_in(scratch)?;
        let options = Options { prefix: PREFIX, connections: workload.connections, sources, stays: false };
        let agent = Agent::start(server, options, work.path())?;
        Ok(Self { agent, work })
    }

    /// Waits for the end of the load and of the agent, and removes what was loaded.
    pub(super) fn finish(mut self, workload: Workload) -> Result<Sample> {
        let sample = self.agent.complete()?;
        self.agent.end()?;
        // Beside the files there is the agent's own folder of ready files.
        let loaded: u64 = fs::read_dir(self.work.path().join("models"))?
            .map(|entry| entry?.metadata())
            .filter_map(|found| found.map(|found| found.is_file().then_some(found.len())).transpose())
            .sum::<Result<u64, _>>()
            .context("cannot look at the loaded files")?;
        let bytes = workload.bytes();
        ensure!(loaded == bytes, "the agent loaded {loaded} bytes instead of {bytes}");
        self.work.close().context("cannot remove the loaded files")?;
        Ok(sample)
    }
}

/// Processor time in seconds and largest resident set in bytes of a process until now (proc_pid_stat(5),
/// proc_pid_status(5)).
pub(super) fn used(pid: u32) -> Result<(f64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    // The name, which may have spaces, is the second field; user and system time are the 14th and 15th.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_ascii_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    let second = sysconf(SysconfVar::CLK_TCK)?.context("the length of a tick is not known")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")?.trim().parse().ok());
    let peak: u64 = peak.context("the process's memory is not known")?;
    Ok((ticks / second as f64, peak << 10))
}

/// Over how many threads the agent spreads the connections, which it has equally many of for each thread.
fn threads(connections: u32) -> Result<u32> {
    let processors = thread::available_parallelism().context("cannot count processors")?.get();
    let most = connections.min(u32::try_from(processors).unwrap_or(u32::MAX));
    Ok((1..=most).rev().find(|threads| connections.is_multiple_of(*threads)).unwrap_or(1))
}
