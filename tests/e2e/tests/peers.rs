//! Many nodes read OSS about once: what the server sent in all is about one model, and every node has every byte.

use anyhow::ensure;
use e2e::agent::{ALL_COMPLETE, Agent, exit};
use e2e::cluster::Cluster;
use e2e::origin::shards;
use e2e::turn;
use oss_server::Config;

use crate::MIB;

/// Starts an agent on every node, waits until all have everything, ends them, and compares the bytes.
fn load_everywhere(cluster: &Cluster) -> anyhow::Result<()> {
    let agents: Vec<Agent> =
        cluster.nodes().map(|node| cluster.start(node).start()).collect::<anyhow::Result<_>>()?;
    for agent in &agents {
        agent.wait_for(ALL_COMPLETE)?;
    }
    for agent in agents {
        agent.stop()?.expect(exit::OK)?;
    }
    cluster.nodes().try_for_each(|node| cluster.check(node))
}

fn check_sent(cluster: &Cluster, percent: u64) -> anyhow::Result<()> {
    let (sent, size) = (cluster.origin().sent(), cluster.origin().size());
    ensure!(sent >= size, "{sent} bytes sent of a model of {size}");
    ensure!(sent <= size * percent / 100, "{sent} bytes sent of a model of {size}, {} %", sent * 100 / size);
    Ok(())
}

#[test]
fn two_nodes_read_the_model_once() -> anyhow::Result<()> {
    let _turn = turn::take();
    let config = Config { rate: 100_000_000, ..Config::default() };
    let cluster = Cluster::new(2, config, shards(3, 64 * MIB + 77))?;
    load_everywhere(&cluster)?;
    check_sent(&cluster, 110)
}
