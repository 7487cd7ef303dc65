//! One node of a cluster: an agent in its namespace, and when it said that everything is complete.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;

use super::net::Network;
use crate::agent_log::{ALL_COMPLETE, Event};
use crate::cmd::{self, Guarded};
use crate::server::Server;

/// Where agents ask each other.
const PORT: u16 = 7600;

/// A running agent.
#[derive(Debug)]
pub(crate) struct Node {
    number: u8,
    model_dir: PathBuf,
    started: Timestamp,
    lines: Receiver<String>,
    process: Guarded,
}

impl Node {
    /// Starts it; without seeds it shares nothing.
    pub(crate) fn start(
        number: u8,
        network: &Network,
        server: &Server,
        prefix: &str,
        seeds: &[Ipv4Addr],
        debug: bool,
        scratch: &Path,
    ) -> Result<Self> {
        let (model_dir, state_dir) =
            (scratch.join(format!("node-{number}")), scratch.join(format!("state-{number}")));
        fs::create_dir(&model_dir)?;
        let profile = if debug { "debug" } else { "release" };
        let agent = cmd::root().join("target").join(profile).join("ossc-agent");
        let mut command = cmd::tied("nsenter");
        command.arg(format!("--net=/run/netns/{}", network.node(number))).arg("--").arg(agent);
        command.args(["--log-format", "json", "--takeover-deadline", "1", "--model-dir"]).arg(&model_dir);
        command.arg("--state-dir").arg(&state_dir).envs(server.environment(prefix));
        if !seeds.is_empty() {
            let seeds: Vec<_> = seeds.iter().map(|seed| format!("{seed}:{PORT}")).collect();
            command.args(["--insecure-peers", "--peers", &seeds.join(",")]);
            command.args(["--peers-listen", &format!("{}:{PORT}", Network::address(number))]);
            command.args(["--peers-discovery", "list"]);
        }
        let started = Timestamp::now();
        let mut process =
            Guarded::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()))?;
        let log = process.child().stderr.take().context("the agent has no standard error")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Ends with the agent; a receiver that is gone wants no more lines, but the pipe must not fill.
            BufReader::new(log).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        Ok(Self { number, model_dir, started, lines, process })
    }

    pub(crate) fn number(&self) -> u8 {
        self.number
    }

    /// Waits until it has everything; seconds since its start.
    pub(crate) fn wait_complete(&mut self, deadline: Instant) -> Result<f64> {
        let mut said = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let Ok(line) = self.lines.recv_timeout(left) else {
                bail!("node {} did not complete; it said:\n{}", self.number, said.join("\n"));
            };
            if let Some(event) = Event::parse(&line).filter(|event| event.message == ALL_COMPLETE) {
                return Ok(event.timestamp.duration_since(self.started).as_secs_f64());
            }
            said.push(line);
        }
    }

    /// Ends it and looks whether its files have their size. That their bytes are right the agent has found by their
    /// checksums; the end-to-end tests compare them.
    pub(crate) fn check(self, size: u64, files: u64) -> Result<()> {
        drop(self.process);
        let mut found = 0;
        for entry in fs::read_dir(&self.model_dir)? {
            let facts = entry?.metadata()?;
            if facts.is_file() {
                ensure!(facts.len() == size, "node {} has a file of {} bytes", self.number, facts.len());
                found += 1;
            }
        }
        ensure!(found == files, "node {} has {found} files of {files}", self.number);
        Ok(())
    }
}
