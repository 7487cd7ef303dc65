//! One run of a cluster: the network, the server, the agents, what happens to them, and what came of it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;

use super::Args;
use super::net::Network;
use super::node::{Node, Place};
use super::reader::{self, Reader, Seen};
use super::scenario::{Gate, Scenario};
use crate::server::{Server, Settings};

/// Objects lie under this key prefix of the bucket.
const PREFIX: &str = "cluster/";
/// Files of the model.
const FILES: u64 = 4;
/// Where the server listens in its namespace.
const SERVER_PORT: u16 = 8080;
/// Longest wait for a node.
const PATIENCE: Duration = Duration::from_secs(400);
/// Before a warm load begins: the agents' start, and their news of each other.
const LEAD: Duration = Duration::from_secs(2);
/// And for each node, on the few processors of one machine.
const LEAD_EACH: Duration = Duration::from_millis(400);
/// Time in which cold nodes start.
const COLD: Duration = Duration::from_secs(2);
/// The most that readers in order take, in times of their nodes, for all and for the first hundredth.
const READER_END: f64 = 1.03;
const READER_FIRST: f64 = 0.02;
/// How long halves are apart.
const APART: Duration = Duration::from_secs(5);

/// A run to be made.
pub(crate) struct Trial<'a> {
    pub(crate) args: &'a Args,
    pub(crate) scenario: Scenario,
    /// What one node takes, seconds.
    pub(crate) alone: Option<f64>,
    pub(crate) scratch: &'a Path,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) scenario: Scenario,
    pub(crate) gate: Option<Gate>,
    /// Seconds of each node that ended, and whether it is one that matters.
    took: Vec<(f64, bool)>,
    /// Bytes that the server sent.
    pub(crate) sent: u64,
    pub(crate) model: u64,
    /// Seconds since the begin of the load, and bytes sent until then.
    pub(crate) timeline: Vec<(f64, f64)>,
    /// What the agents counted, over all of them.
    pub(crate) counts: Vec<(String, u64)>,
    /// What the reader of each node saw, and when the node was complete.
    pub(crate) readers: Vec<(Seen, f64)>,
}

/// What of a line of the server's log matters here.
#[derive(Debug, Deserialize)]
struct Request {
    operation: String,
    sent: u64,
    /// Milliseconds since 1970.
    time: u64,
    start_ns: u64,
    end_ns: u64,
}

impl Trial<'_> {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let Self { args, scenario, scratch, .. } = self;
        let nodes = if *scenario == Scenario::Single { 1 } else { args.nodes };
        let mut network = Network::make(nodes, args.link, args.origin)?;
        let slow = scenario.slow(nodes);
        for node in slow.clone() {
            network.set_speed(node, args.link / 4)?;
        }
        let size = (args.model_bytes() / FILES).max(1);
        let log = scratch.join("requests.log");
        let server = Server::start(&Settings {
            synthetic: (0..FILES).map(|file| (format!("{PREFIX}part-{file}.bin"), size)).collect(),
            log: Some(log.clone()),
            listen: Some(SocketAddr::new(Network::ORIGIN.into(), SERVER_PORT)),
            within: Some(network.origin()),
            debug: true,
            ..Settings::default()
        })?;
        if *scenario == Scenario::NoPeers {
            (0..nodes).try_for_each(|node| network.isolate(node))?;
        }
        let begin = SystemTime::now()
            + if scenario.is_warm() { LEAD + LEAD_EACH * u32::from(nodes) } else { Duration::ZERO };
        let alone = Duration::from_secs_f64(self.alone.unwrap_or(0.0));
        let over = match scenario {
            Scenario::Spread => alone / 3,
            Scenario::Cold => COLD,
            _ => Duration::ZERO,
        };
        let mut started = Vec::new();
        for number in 0..nodes {
            let place = Place {
                number,
                nodes,
                network: &network,
                server: &server,
                prefix: PREFIX,
                scratch,
                begin: scenario.is_warm().then_some(begin),
                speed: if slow.contains(&number) { args.link / 4 } else { args.link },
            };
            started.push(Node::start(&place, args, *scenario)?);
            let next = begin + over * u32::from(number + 1) / u32::from(nodes);
            if !scenario.is_warm() {
                sleep(next.duration_since(SystemTime::now()).unwrap_or_default());
            }
        }
        ensure!(
            !scenario.is_warm() || SystemTime::now() < begin,
            "the agents took too long to start; use fewer nodes"
        );
        let readers = if *scenario == Scenario::Readers { nodes } else { 0 };
        let readers = started.iter().take(readers.into());
        let readers: Vec<_> = readers.map(|node| Reader::start(self.files(node), size, begin)).collect();
        self.trouble(&mut network, &mut started, begin, alone)?;
        let victims = scenario.victims(nodes);
        let deadline = Instant::now() + PATIENCE;
        let (mut took, mut counts) = (Vec::new(), Vec::<(String, u64)>::new());
        for node in started.iter_mut().filter(|node| !victims.contains(&node.number())) {
            let seconds = node.wait_complete(deadline)?;
            took.push((seconds, !slow.contains(&node.number())));
            for (name, count) in node.counts() {
                match counts.iter_mut().find(|(known, _)| known == name) {
                    Some((_, sum)) => *sum += count,
                    None => counts.push((name.clone(), *count)),
                }
            }
        }
        let readers = readers.into_iter().map(Reader::end).collect::<Result<Vec<_>>>()?;
        if let Some(first) = started.first().filter(|_| !readers.is_empty()) {
            // The agent has compared these files with the server's checksums.
            let right = reader::sum(&self.files(first), size)?;
            ensure!(readers.iter().all(|seen| seen.sum == right), "a reader saw wrong bytes");
        }
        let readers = readers.into_iter().zip(took.iter().map(|(seconds, _)| *seconds)).collect();
        for node in started {
            if victims.contains(&node.number()) {
                node.end(Signal::SIGKILL)?;
            } else {
                node.check(size, FILES)?;
            }
        }
        drop(server);
        let log = fs::read_to_string(&log).context("cannot read the server's log")?;
        let (sent, timeline) = sent(&log, begin)?;
        let (model, gate) = (size * FILES, scenario.gate(nodes));
        Ok(Outcome { scenario: *scenario, gate, took, sent, model, timeline, counts, readers })
    }

    /// The model on a node, in order.
    fn files(&self, node: &Node) -> Vec<PathBuf> {
        let directory = self.scratch.join(format!("node-{}", node.number()));
        (0..FILES).map(|file| directory.join(format!("part-{file}.bin"))).collect()
    }

    /// What happens in the middle of the load.
    fn trouble(
        &self,
        network: &mut Network,
        nodes: &mut [Node],
        begin: SystemTime,
        alone: Duration,
    ) -> Result<()> {
        let count = u8::try_from(nodes.len())?;
        let quarter = begin + alone / 4;
        let wait = || sleep(quarter.duration_since(SystemTime::now()).unwrap_or_default());
        let victims = self.scenario.victims(count);
        let mut struck = nodes.iter_mut().filter(|node| victims.contains(&node.number()));
        match self.scenario {
            Scenario::Kill => {
                wait();
                struck.try_for_each(|node| node.signal(Signal::SIGKILL))
            }
            Scenario::Stop => {
                wait();
                struck.try_for_each(|node| node.signal(Signal::SIGSTOP))
            }
            Scenario::Unplug => {
                wait();
                struck.try_for_each(|node| network.unplug(node.number()))
            }
            Scenario::Partition => {
                wait();
                network.part(true)?;
                sleep(APART);
                network.part(false)
            }
            _ => Ok(()),
        }
    }
}

impl Outcome {
    /// Seconds of the nodes that matter.
    pub(crate) fn seconds(&self) -> Vec<f64> {
        self.took.iter().filter(|(_, matters)| *matters).map(|(seconds, _)| *seconds).collect()
    }

    pub(crate) fn mean(&self) -> f64 {
        let seconds = self.seconds();
        seconds.iter().sum::<f64>() / seconds.len().max(1) as f64
    }

    pub(crate) fn slowest(&self) -> f64 {
        self.seconds().into_iter().fold(0.0, f64::max)
    }

    /// The mean time of the readers in times of their nodes', the slowest one's, and when they had the first hundredth
    /// on average, in times of their nodes'.
    pub(crate) fn reading(&self) -> Option<[f64; 3]> {
        let ratios: Vec<_> =
            self.readers.iter().map(|(seen, took)| (seen.end / took, seen.first / took)).collect();
        let count = ratios.len() as f64;
        (!ratios.is_empty()).then(|| {
            [
                ratios.iter().map(|(end, _)| end).sum::<f64>() / count,
                ratios.iter().map(|(end, _)| *end).fold(0.0, f64::max),
                ratios.iter().map(|(_, first)| first).sum::<f64>() / count,
            ]
        })
    }

    /// Models that the server sent.
    pub(crate) fn origin(&self) -> f64 {
        self.sent as f64 / self.model as f64
    }

    /// Whether it kept within its gate.
    pub(crate) fn is_good(&self, alone: f64) -> bool {
        let in_order =
            self.reading().is_none_or(|[end, _, first]| end <= READER_END && first <= READER_FIRST);
        in_order
            && self.gate.is_none_or(|gate| self.mean() / alone <= gate.mean && self.origin() <= gate.origin)
    }

    /// For the terminal.
    pub(crate) fn line(&self, alone: Option<f64>) -> String {
        let alone = alone.unwrap_or_else(|| self.mean());
        let counts: Vec<_> = self
            .counts
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        format!(
            "{}: mean {:.2} s ({:.3}), slowest {:.2} s ({:.3}), OSS read {:.3} times, until {:.2} s{}\n    {}",
            self.scenario,
            self.mean(),
            self.mean() / alone,
            self.slowest(),
            self.slowest() / alone,
            self.origin(),
            self.timeline.last().map_or(0.0, |(at, _)| *at),
            self.reading().map_or(String::new(), |[end, slowest, first]| format!(
                "; readers end at {end:.3} of their nodes' time, the last at {slowest:.3}, 1 % read at {first:.3}"
            )),
            counts.join(", "),
        )
    }
}

/// Bytes of objects that were sent, and when.
fn sent(log: &str, begin: SystemTime) -> Result<(u64, Vec<(f64, f64)>)> {
    let requests = log.lines().map(serde_json::from_str).collect::<Result<Vec<Request>, _>>();
    let requests = requests.context("the test server's request log is not what this command reads")?;
    let gets: Vec<_> = requests.iter().filter(|request| request.operation == "get").collect();
    let sent = gets.iter().map(|get| get.sent).sum();
    ensure!(sent > 0, "the server sent nothing");
    let begin = begin.duration_since(UNIX_EPOCH)?.as_secs_f64();
    // Where each reply ended; blocks are short against a load.
    let end =
        |get: &&Request| get.time as f64 / 1e3 + get.end_ns.saturating_sub(get.start_ns) as f64 / 1e9 - begin;
    let mut ends: Vec<_> = gets.iter().map(|get| (end(get), get.sent as f64)).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut sum = 0.0;
    let timeline = ends.into_iter().map(|(at, bytes)| {
        sum += bytes;
        (at, sum)
    });
    Ok((sent, timeline.collect()))
}
