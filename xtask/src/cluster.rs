//! `cargo xtask cluster`: many nodes on one machine that load the same model and share its blocks. Each node is a
//! real agent in a network namespace of its own, behind a link of limited speed; so is the test server. Prints when
//! each node was complete and how many bytes of the model the server sent in all. The model is computed, so nothing
//! is downloaded; everything is removed at the end.

mod net;
mod node;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use self::net::Network;
use self::node::Node;
use crate::server::{Server, Settings};
use crate::{build, cmd};

/// Objects lie under this key prefix of the bucket.
const PREFIX: &str = "cluster/";
/// Files of the model.
const FILES: u64 = 4;
/// Where the server listens in its namespace.
const SERVER_PORT: u16 = 8080;
/// Longest run.
const PATIENCE: Duration = Duration::from_secs(600);
const MIB: u64 = 1 << 20;

/// What is tried.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Nodes
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=200))]
    nodes: u8,
    /// Bytes of the model, MiB
    #[arg(long, default_value_t = 128)]
    model: u64,
    /// Speed of each node's link, Mbit/s
    #[arg(long, default_value_t = 200)]
    link: u32,
    /// Speed of the server's link, Mbit/s
    #[arg(long, default_value_t = 200)]
    origin: u32,
    /// Seconds over which the nodes start
    #[arg(long, default_value_t = 0.0)]
    spread: f64,
    /// Every node loads for itself
    #[arg(long)]
    alone: bool,
    /// Use the debug builds of agent and server
    #[arg(long)]
    debug: bool,
}

/// What of a line of the server's log matters here.
#[derive(Debug, Deserialize)]
struct Request {
    operation: String,
    sent: u64,
}

/// Builds and runs it.
pub(crate) fn cluster(args: &Args) -> Result<()> {
    cmd::require_root("cluster")?;
    if args.debug {
        cmd::run(&mut cmd::cargo(&["build", "-p", "ossc-agent", "-p", "oss-server"]))?;
    } else {
        build::build()?;
        Server::build()?;
    }
    let target = cmd::root().join("target");
    let scratch = tempfile::Builder::new().prefix("cluster-").tempdir_in(&target);
    let scratch = scratch.with_context(|| format!("cannot make a directory in {}", target.display()))?;
    let outcome = run(args, scratch.path());
    scratch.close().context("cannot remove the files of the nodes")?;
    outcome
}

fn run(args: &Args, scratch: &Path) -> Result<()> {
    let began = Instant::now();
    let network = Network::make(args.nodes, args.link, args.origin)?;
    let size = (args.model * MIB / FILES).max(1);
    let log = scratch.join("requests.log");
    let server = Server::start(&Settings {
        synthetic: (0..FILES).map(|file| (format!("{PREFIX}part-{file}.bin"), size)).collect(),
        log: Some(log.clone()),
        listen: Some(SocketAddr::new(Network::ORIGIN.into(), SERVER_PORT)),
        within: Some(network.origin()),
        debug: args.debug,
        ..Settings::default()
    })?;
    println!(
        "{} nodes, links of {} Mbit/s, origin {} Mbit/s: set up in {:.1} s",
        args.nodes,
        args.link,
        args.origin,
        began.elapsed().as_secs_f64()
    );
    let seeds: Vec<Ipv4Addr> =
        if args.alone { Vec::new() } else { (0..args.nodes).map(Network::address).collect() };
    let pause = Duration::from_secs_f64(args.spread / f64::from(args.nodes));
    let mut nodes = Vec::new();
    for number in 0..args.nodes {
        nodes.push(Node::start(number, &network, &server, PREFIX, &seeds, args.debug, scratch)?);
        std::thread::sleep(pause);
    }
    let deadline = Instant::now() + PATIENCE;
    let mut took = Vec::new();
    for node in &mut nodes {
        let seconds = node.wait_complete(deadline)?;
        println!("node {:>3}: complete after {seconds:.2} s", node.number());
        took.push(seconds);
    }
    for node in nodes {
        node.check(size, FILES)?;
    }
    drop(server);
    let sent = sent(&fs::read_to_string(&log).context("cannot read the server's log")?)?;
    let model = size * FILES;
    let mean = took.iter().sum::<f64>() / f64::from(args.nodes);
    let max = took.iter().copied().fold(0.0, f64::max);
    println!(
        "mean {mean:.2} s, last {max:.2} s; the server sent {sent} bytes of a model of {model}: {:.3} of it; {:.1} s in all",
        sent as f64 / model as f64,
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Bytes of objects that were sent.
fn sent(log: &str) -> Result<u64> {
    let requests = log.lines().map(serde_json::from_str).collect::<Result<Vec<Request>, _>>();
    let requests = requests.context("the test server's request log is not what this command reads")?;
    let gets = requests.iter().filter(|request| request.operation == "get");
    let sent = gets.map(|get| get.sent).sum();
    ensure!(sent > 0, "the server sent nothing");
    Ok(sent)
}
