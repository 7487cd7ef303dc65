//! One node of a cluster: an agent in its namespace, and when it said that everything is complete.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Args;
use super::net::Network;
use super::scenario::Scenario;
use crate::agent_log::{ALL_COMPLETE, Event, WHERE_FROM};
use crate::cmd::{self, Guarded};
use crate::server::Server;

/// Where agents ask each other.
const PORT: u16 = 7600;

/// Where and how a node is started.
pub(crate) struct Place<'a> {
    pub(crate) number: u8,
    pub(crate) nodes: u8,
    pub(crate) network: &'a Network,
    pub(crate) server: &'a Server,
    pub(crate) prefix: &'a str,
    pub(crate) scratch: &'a Path,
    /// When its load begins; at its start if not said.
    pub(crate) begin: Option<SystemTime>,
    /// Mbit/s of its link.
    pub(crate) speed: u32,
}

/// A running agent.
#[derive(Debug)]
pub(crate) struct Node {
    number: u8,
    model_dir: PathBuf,
    began: Timestamp,
    lines: Receiver<String>,
    counts: Vec<(String, u64)>,
    process: Guarded,
}

impl Node {
    /// Starts it.
    pub(crate) fn start(place: &Place<'_>, args: &Args, scenario: Scenario) -> Result<Self> {
        let Place { number, nodes, network, scratch, .. } = *place;
        let (model_dir, state_dir) =
            (scratch.join(format!("node-{number}")), scratch.join(format!("state-{number}")));
        fs::create_dir(&model_dir)?;
        let agent = cmd::root().join("target/debug/ossc-agent");
        let mut command = cmd::tied("nsenter");
        command.arg(format!("--net=/run/netns/{}", network.node(number))).arg("--").arg(agent);
        command.args(["--log-format", "json", "--takeover-deadline", "1", "--model-dir"]).arg(&model_dir);
        command.arg("--state-dir").arg(&state_dir).envs(place.server.environment(place.prefix));
        command.args(["--block-size", &format!("{}K", args.block)]);
        // Two threads, as the machine has two processors at least; by itself a node would take few connections here.
        command.args(["--threads", "2", "--connections", &(args.connections / 2).to_string()]);
        // The one kernel here would run the probes of all agents for each read of any of them.
        command.arg("--no-observe");
        if args.sink > 0 {
            command.args(["--bandwidth-limit", &(u64::from(args.sink) * 125_000).to_string()]);
        }
        let seeds: Vec<_> =
            (0..nodes).map(|node| format!("{}:{PORT}", Network::address(node, nodes))).collect();
        command.args(["--insecure-peers", "--peers", &seeds.join(","), "--peers-discovery", "list"]);
        command.args(["--peers-listen", &format!("{}:{PORT}", Network::address(number, nodes))]);
        command.args(["--peers-gbps", &(f64::from(place.speed) / 1000.0).to_string()]);
        if let Some(begin) = place.begin {
            let millis = begin.duration_since(UNIX_EPOCH)?.as_millis().to_string();
            command.env("OSSC_TEST_PEERS_START", millis);
        }
        if scenario == Scenario::OwnersOnly {
            command.env("OSSC_TEST_PEERS", "owners-only");
        }
        if scenario.liar() == Some(number) {
            command.env("OSSC_TEST_PEERS", "lies");
        }
        let log = match &args.logs {
            Some(logs) => {
                fs::create_dir_all(logs)?;
                command.args(["--log-level", "debug"]);
                Some(fs::File::create(logs.join(format!("node-{number}.log")))?)
            }
            None => None,
        };
        let began = match place.begin {
            Some(begin) => Timestamp::try_from(begin)?,
            None => Timestamp::now(),
        };
        let mut process =
            Guarded::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()))?;
        let output = process.child().stderr.take().context("the agent has no standard error")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            use std::io::Write as _;
            let mut log = log;
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(log) = &mut log {
                    // A log that cannot be written is missed by who looks for it.
                    writeln!(log, "{line}").ok();
                }
                // Ends with the agent; a receiver that is gone wants no more lines, but the pipe must not fill.
                drop(sender.send(line));
            }
        });
        Ok(Self { number, model_dir, began, lines, counts: Vec::new(), process })
    }

    pub(crate) fn number(&self) -> u8 {
        self.number
    }

    /// What it counted.
    pub(crate) fn counts(&self) -> &[(String, u64)] {
        &self.counts
    }

    /// Waits until it has everything; seconds since its load began.
    pub(crate) fn wait_complete(&mut self, deadline: Instant) -> Result<f64> {
        let mut said = Vec::new();
        let mut complete = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let Ok(line) = self.lines.recv_timeout(left) else {
                let tail = said.iter().rev().take(20).rev().map(String::as_str).collect::<Vec<_>>();
                bail!("node {} did not complete; it said:\n{}", self.number, tail.join("\n"));
            };
            if let Some(event) = Event::parse(&line) {
                if event.message == ALL_COMPLETE {
                    complete = Some(event.timestamp.duration_since(self.began).as_secs_f64());
                } else if event.message == WHERE_FROM {
                    self.counts = event.counts();
                    if let Some(seconds) = complete {
                        return Ok(seconds);
                    }
                }
            }
            said.push(line);
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.process.child().id())?;
        kill(Pid::from_raw(pid), signal).context("cannot signal an agent")
    }

    /// Ends it at once.
    pub(crate) fn end(mut self, signal: Signal) -> Result<()> {
        if self.process.child().try_wait()?.is_none() {
            self.signal(signal)?;
            self.process.child().wait()?;
        }
        Ok(())
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
