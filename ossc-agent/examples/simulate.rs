//! Many nodes in simulated time, with the agent's own placement and scheduling: prints what the cluster came to as a line
//! of JSON. `cargo xtask cluster --simulate` runs it; nothing of it is in the agent itself.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use ossc_agent::base::BlockSize;
use ossc_agent::peer::sim::{Links, Setup, Sim};
use ossc_agent::peer::swarm::Settings;

/// Connections of an agent by default, of which half are for peers.
const CONNECTIONS: u32 = 128;

#[derive(Debug, Parser)]
struct Args {
    #[arg(long)]
    nodes: usize,
    /// Blocks of the model
    #[arg(long)]
    blocks: u32,
    /// KiB
    #[arg(long)]
    block_size: u64,
    /// Speed of a node's link, Mbit/s
    #[arg(long)]
    link: f64,
    /// What a node takes in, Mbit/s
    #[arg(long)]
    sink: f64,
    /// Speed of the origin's link, Mbit/s
    #[arg(long)]
    origin: f64,
    /// From a request to the origin until its block comes, ms
    #[arg(long)]
    latency: u64,
    /// Blocks come from their owners alone
    #[arg(long)]
    owners_only: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let block_size = BlockSize::new(args.block_size << 10).context("no block has this size")?;
    ensure!(args.nodes > 0 && args.blocks >= 100, "too little to simulate");
    let bits = Duration::from_micros(block_size.bytes() * 8);
    let links = Links {
        up: bits.div_f64(args.link),
        down: bits.div_f64(args.sink.min(args.link)),
        origin: bits.div_f64(args.origin),
        first_byte: Duration::from_millis(args.latency),
        delay: Duration::from_micros(200),
    };
    let settings =
        Settings { origin_slots: CONNECTIONS / 2, any_holder: !args.owners_only, ..Settings::default() };
    let setup = Setup {
        nodes: args.nodes,
        blocks: args.blocks,
        block_size,
        settings,
        links,
        warm: true,
        ..Setup::default()
    };
    let one = Sim::run(Setup { nodes: 1, ..setup.clone() });
    let one = one.took().first().copied().context("one node did not end")?.as_secs_f64();
    let began = Instant::now();
    let sim = Sim::run(setup);
    let mean = |times: &[Duration]| times.iter().sum::<Duration>().as_secs_f64() / times.len().max(1) as f64;
    let took = sim.took();
    let slowest = took.iter().max().copied().unwrap_or_default().as_secs_f64();
    println!(
        "{{\"one\": {one:.3}, \"mean\": {:.4}, \"slowest\": {:.4}, \"origin\": {:.4}, \"reader\": {:.4}, \"first\": {:.4}, \"seconds\": {:.0}}}",
        mean(&took) / one,
        slowest / one,
        f64::from(sim.origin_reads()) / f64::from(args.blocks),
        mean(&sim.read_until(args.blocks)) / one,
        mean(&sim.read_until(args.blocks / 100)) / one,
        began.elapsed().as_secs_f64(),
    );
    Ok(())
}
