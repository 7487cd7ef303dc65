//! What several nodes read from OSS together stays below `--origin-max-rate`, whatever each of them could read.
//!
//! Only that bytes come no sooner than the limit lets them is asserted, so a slow machine changes nothing.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, Agent, Build, exit};
use e2e::cluster::Cluster;
use e2e::origin::shards;
use e2e::turn;
use oss_server::{Config, Operation};

use crate::MIB;

/// Bytes a second of all nodes.
const RATE: u64 = 8 * MIB;
const NODES: u8 = 3;
const CONNECTIONS: u64 = 2;
/// What one connection takes at a time.
const PIECE: u64 = MIB / 2;
/// Nodes find each other before the load begins.
const HEAD_START: Duration = Duration::from_secs(4);

#[test]
fn is_kept_by_one_node() -> anyhow::Result<()> {
    kept_by(1)
}

#[test]
fn is_kept_by_several_nodes_together() -> anyhow::Result<()> {
    kept_by(NODES)
}

fn kept_by(nodes: u8) -> anyhow::Result<()> {
    let _turn = turn::take();
    let cluster = Cluster::new(nodes, Config::default(), shards(2, 12 * MIB + 3))?;
    let begin = (SystemTime::now() + HEAD_START).duration_since(UNIX_EPOCH)?.as_millis();
    let start = |node| {
        let start = cluster.start(node).build(Build::Debug);
        let start = start.variable("OSSC_TEST_PEERS_START", begin.to_string());
        let start = start.option("--origin-max-rate", RATE.to_string()).option("--threads", "1");
        start.option("--connections", CONNECTIONS.to_string()).start()
    };
    let agents: Vec<Agent> = cluster.nodes().map(start).collect::<anyhow::Result<_>>()?;
    for agent in &agents {
        agent.wait_for(ALL_COMPLETE)?;
    }
    let end = Instant::now();
    let gets = cluster.origin().server().log().select(|entry| entry.operation == Operation::Get);
    let first = gets.iter().map(|get| get.started).min().context("no object was read")?;
    let (sent, took) = (cluster.origin().sent(), end - first);
    // What each connection may take at once, and a twentieth of a second that may be caught up on.
    let at_once = u64::from(nodes) * (CONNECTIONS * PIECE + RATE / 20);
    let most = RATE * u64::try_from(took.as_millis())? / 1000 + at_once;
    ensure!(sent >= cluster.origin().size(), "{sent} bytes of {} sent", cluster.origin().size());
    ensure!(sent <= most, "{nodes} nodes took {sent} bytes in {took:?}, more than {most}");
    for agent in agents {
        agent.stop()?.expect(exit::OK)?;
    }
    cluster.nodes().try_for_each(|node| cluster.check(node))
}
