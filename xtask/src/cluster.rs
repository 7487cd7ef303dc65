//! `cargo xtask cluster`: many nodes on one machine that load the same model and share its blocks. Each node is a
//! real agent in a network namespace of its own, behind a link of limited speed; so is the test server. A node alone
//! comes first, in the same set-up: what it takes is what all others are compared with. The model is computed, so
//! nothing is downloaded; everything is removed at the end.
//!
//! The links stand for a data centre's at a hundredth of the speed: the relations of NIC, sink and origin are those
//! of nodes with 100 Gbit/s that write 66 Gbit/s. The debug build is run, because only that has the switches of
//! some scenarios; links, not the processor, set the pace.

mod net;
mod node;
mod reader;
mod report;
mod scenario;
mod simulate;
mod trial;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use self::report::Report;
use self::scenario::Scenario;
use self::trial::Trial;
use crate::cmd;

const MIB: u64 = 1 << 20;

/// What is tried.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Nodes
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(2..=200))]
    nodes: u8,
    /// Bytes of the model, MiB [default: 100 blocks a node]
    #[arg(long)]
    model: Option<u64>,
    /// Bytes of a block, KiB
    #[arg(long, default_value_t = 128)]
    block: u64,
    /// Speed of each node's link, Mbit/s
    #[arg(long, default_value_t = 100)]
    link: u32,
    /// Speed of the server's link, Mbit/s
    #[arg(long, default_value_t = 100)]
    origin: u32,
    /// Most that a node takes in, Mbit/s; 0 = as much as its link brings
    #[arg(long, default_value_t = 66)]
    sink: u32,
    /// Connections of each node: as many as a machine of its own would give it, not its part of this one
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=256))]
    connections: u32,
    /// What happens; repeated, or `all`
    #[arg(long, default_value = "warm")]
    scenario: Vec<Scenario>,
    /// Write docs/bench/cluster-N.md and its plots
    #[arg(long)]
    write: bool,
    /// Nothing of the above: clusters in simulated time, with the agent's own scheduling
    #[arg(long)]
    simulate: bool,
    /// Simulate no more nodes than this
    #[arg(long, requires = "simulate")]
    simulate_most: Option<u16>,
    /// Run what was built before
    #[arg(long)]
    built: bool,
    /// Keep the agents' logs here, at level debug
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
}

impl Args {
    /// The command that runs the same again.
    fn command(&self) -> String {
        let Self { nodes, block, link, origin, sink, connections, .. } = self;
        let model = self.model.map_or_else(String::new, |mib| format!(" --model {mib}"));
        format!(
            "cargo xtask cluster --nodes {nodes}{model} --block {block} --link {link} --origin {origin} --sink {sink} \
             --connections {connections}"
        )
    }

    fn model_bytes(&self) -> u64 {
        self.model.map_or(u64::from(self.nodes) * 100 * self.block * 1024, |mib| mib * MIB)
    }
}

/// Builds and runs it.
pub(crate) fn cluster(args: &Args) -> Result<()> {
    if args.simulate {
        return simulate::simulate(args.simulate_most, args.write);
    }
    cmd::require_root("cluster")?;
    if !args.built {
        cmd::run(&mut cmd::cargo(&["build", "-p", "ossc-agent", "-p", "oss-server"]))?;
    }
    let target = cmd::root().join("target");
    let scenarios = Scenario::expand(&args.scenario);
    let single = one(args, Scenario::Single, None, &target)?;
    let alone = single.seconds().first().copied().context("the node alone did not complete")?;
    let mut report = Report::new(args, alone);
    report.add(single);
    for scenario in scenarios {
        report.add(one(args, scenario, Some(alone), &target)?);
    }
    println!("\n{}", report.table());
    if args.write {
        report.write()?;
    }
    let failed = report.failed();
    ensure!(failed.is_empty(), "outside of its gate: {}", failed.join(", "));
    Ok(())
}

/// One run in a fresh place.
fn one(
    args: &Args,
    scenario: Scenario,
    alone: Option<f64>,
    target: &std::path::Path,
) -> Result<trial::Outcome> {
    let scratch = tempfile::Builder::new().prefix("cluster-").tempdir_in(target);
    let scratch = scratch.with_context(|| format!("cannot make a directory in {}", target.display()))?;
    let outcome = Trial { args, scenario, alone, scratch: scratch.path() }.run();
    scratch.close().context("cannot remove the files of the nodes")?;
    let outcome = outcome.with_context(|| format!("scenario {scenario}"))?;
    println!("{}", outcome.line(alone));
    Ok(outcome)
}
