//! Several NICs: each carries what it can, and one that dies in the middle of a load costs time and no bytes.
//!
//! Links are veth pairs with a shaped rate. What each of them carried is asked of the server's log, in bytes; no test
//! depends on how long anything takes.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::agent::{ALL_COMPLETE, Agent, FILES_VISIBLE, PATIENCE, exit};
use e2e::links::{Links, SERVER, address};
use e2e::origin::shards;
use e2e::scratch::{FileSystem, Scratch};
use e2e::site::Site;
use e2e::turn;
use oss_server::{Config, Fault, Operation, Rule};

use crate::MIB;

/// Bytes of each of the two files.
const SHARD: u64 = 64 * MIB;
/// What the agent says when a NIC is given up, and when it is used again.
const NIC_DOWN: &str = "a NIC does not answer; its connections move to the others";
const NIC_UP: &str = "a NIC works again";
/// What it says of each request that it gives up.
const STILL: &str = "request stands still; asking for the rest anew";

/// Runs a test in a thread of its own, which may go into another network namespace.
pub(crate) fn apart(test: impl FnOnce() -> anyhow::Result<()> + Send) -> anyhow::Result<()> {
    let _turn = turn::take();
    std::thread::scope(|scope| scope.spawn(test).join()).map_err(|_| anyhow::anyhow!("the test panicked"))?
}

/// A site whose server is at the other end of the links, with two files of `shard` bytes.
pub(crate) fn site(links: &Links, shard: u64) -> anyhow::Result<Site> {
    links.on_server(move || {
        let listen = format!("{SERVER}:0").parse().context("the server's address")?;
        Site::on(Scratch::directory()?, Config { listen, ..Config::default() }, shards(2, shard))
    })?
}

/// Bytes of objects that went to an address of the client.
fn carried(site: &Site, link: usize) -> u64 {
    let own = address(link);
    let through = |peer: std::net::SocketAddr| peer.ip().to_string() == own;
    site.origin().server().log().bytes_sent(|entry| entry.operation == Operation::Get && through(entry.peer))
}

/// Waits for the end of the load and looks at every byte.
fn complete(site: &Site, agent: Agent) -> anyhow::Result<()> {
    agent.wait_for(ALL_COMPLETE)?;
    agent.stop()?.expect(exit::OK)?;
    site.check_files()
}

#[test]
fn equal_nics_carry_equal_shares() -> anyhow::Result<()> {
    apart(|| {
        let links = Links::new(&[200, 200])?;
        let site = site(&links, SHARD)?;
        let agent = site.start().variable("HTTP_SOURCE_IP", links.addresses()).start()?;
        complete(&site, agent)?;
        let (first, second) = (carried(&site, 0), carried(&site, 1));
        ensure!(first.min(second) * 2 > first.max(second), "{first} and {second} bytes");
        Ok(())
    })
}

#[test]
fn unequal_nics_named_by_name_carry_unequal_shares() -> anyhow::Result<()> {
    apart(|| {
        let links = Links::new(&[200, 50])?;
        let site = site(&links, SHARD)?;
        let agent = site.start().option("--source", links.names()).start()?;
        complete(&site, agent)?;
        let (fast, slow) = (carried(&site, 0), carried(&site, 1));
        ensure!(slow > site.origin().size() / 20, "the slow NIC is used, too: {slow} bytes");
        ensure!(fast > slow * 2, "{fast} and {slow} bytes");
        Ok(())
    })
}

/// A load over two equal NICs in which something happens to them after a fifth of it.
fn mid_load(happens: impl FnOnce(&Links, &Site, &Agent) -> anyhow::Result<()> + Send) -> anyhow::Result<()> {
    apart(|| {
        let links = Links::new(&[100, 100])?;
        let site = site(&links, SHARD)?;
        let agent = site.start().variable("HTTP_SOURCE_IP", links.addresses()).start()?;
        agent.wait_for(FILES_VISIBLE)?;
        site.wait_percent(20, PATIENCE)?;
        happens(&links, &site, &agent)?;
        complete(&site, agent)
    })
}

#[test]
fn a_nic_that_dies_loses_its_work_to_the_other_and_gets_it_back() -> anyhow::Result<()> {
    mid_load(|links, site, agent| {
        ensure!(carried(site, 0) > 0, "the NIC that is to die was in use");
        links.kill(0)?;
        agent.wait_for(NIC_DOWN)?;
        links.revive(0)?;
        agent.wait_for(NIC_UP)?;
        Ok(())
    })
}

#[test]
fn a_load_ends_over_the_nic_that_is_left() -> anyhow::Result<()> {
    mid_load(|links, _, _| links.kill(1))
}

#[test]
fn a_nic_that_slows_down_mid_load_is_left() -> anyhow::Result<()> {
    mid_load(|links, site, agent| {
        links.set_rate(1, 1)?;
        let before = carried(site, 1);
        agent.wait_for(ALL_COMPLETE)?;
        let after = carried(site, 1) - before;
        ensure!(after < site.origin().size() / 4, "{after} bytes were still waited for on the slow NIC");
        Ok(())
    })
}

#[test]
fn a_nic_is_not_given_up_because_some_of_its_requests_stand_still() -> anyhow::Result<()> {
    let _turn = turn::take();
    // Slow enough that the load goes on long after the first requests began to stand still.
    let config = Config { rate: 60_000_000, ..Config::default() };
    let site = Site::new(FileSystem::Ext4, config, shards(2, 2 * SHARD))?;
    // The server has trouble with the second file, so half of the first requests through each NIC get no answer.
    let stall = Fault::Stall { after: None, time: Some(Duration::from_secs(3600)) };
    let rule = Rule::new(stall).operation(Operation::Get).key("*00002-of*").times(6);
    site.origin().server().faults().add(rule);
    let agent = site.start().variable("HTTP_SOURCE_IP", "127.0.0.1,127.0.0.2");
    let agent = agent.option("--log-level", "debug").start()?;
    agent.wait_for(ALL_COMPLETE)?;
    let ended = agent.stop()?;
    ended.expect(exit::OK)?;
    site.check_files()?;
    let said = |what: &str| ended.log.iter().filter(|event| event.message() == what).count();
    ensure!(said(STILL) > 0, "no request was given up");
    ensure!(said(NIC_DOWN) == 0, "{} NICs were given up", said(NIC_DOWN));
    Ok(())
}
