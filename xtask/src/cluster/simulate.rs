//! `cargo xtask cluster --simulate`: clusters that no one machine holds, in simulated time. The program that does it is an
//! example of the agent's, made of the agent's own placement and scheduling; here are the cases, and the table.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cmd;

/// Where the table is kept.
const REPORT: &str = "docs/bench/cluster-simulated.md";

/// A cluster. Speeds in Mbit/s.
struct Case {
    what: &'static str,
    nodes: u32,
    blocks: u32,
    /// KiB.
    block_size: u32,
    link: u32,
    sink: u32,
    origin: u32,
    /// Milliseconds.
    latency: u32,
    owners_only: bool,
}

/// 664 GB in blocks of 16 MiB, behind 100 Gbit/s, of which a node takes in 8.2 GB/s; a block takes 50 ms and 110 ms at 150 MB/s
/// from OSS where nothing else is in its way.
const REAL: Case = Case {
    what: "664 GB",
    nodes: 50,
    blocks: 39_578,
    block_size: 16 << 10,
    link: 100_000,
    sink: 65_600,
    origin: 100_000,
    latency: 160,
    owners_only: false,
};

/// As `cargo xtask cluster` makes it.
const TESTBED: Case = Case {
    what: "as the testbed",
    nodes: 8,
    blocks: 800,
    block_size: 128,
    link: 100,
    sink: 66,
    origin: 100,
    latency: 1,
    owners_only: false,
};

const CASES: [Case; 7] = [
    TESTBED,
    Case { what: "as the testbed, owners only", owners_only: true, ..TESTBED },
    Case { nodes: 50, blocks: 1600, link: 32, sink: 21, origin: 32, ..TESTBED },
    Case {
        what: "as the testbed, owners only",
        nodes: 50,
        blocks: 1600,
        link: 32,
        sink: 21,
        origin: 32,
        owners_only: true,
        ..TESTBED
    },
    REAL,
    Case { nodes: 200, ..REAL },
    Case { nodes: 500, ..REAL },
];

/// What the program prints.
#[derive(Debug, Deserialize)]
struct Line {
    one: f64,
    mean: f64,
    slowest: f64,
    origin: f64,
    reader: f64,
    first: f64,
    seconds: f64,
}

/// Builds it, runs all cases, and prints the table; writes it if told so.
pub(super) fn simulate(most: Option<u16>, write: bool) -> Result<()> {
    cmd::run(&mut cmd::cargo(&[
        "build",
        "--release",
        "-p",
        "ossc-agent",
        "--features",
        "simulation",
        "--example",
        "simulate",
    ]))?;
    let mut ran = Vec::new();
    let mut table = "| cluster | nodes | blocks a node | one node | mean | slowest | OSS bytes / model | reader in order | first 1 % |\n\
                     |---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for case in CASES.iter().filter(|case| most.is_none_or(|most| case.nodes <= most.into())) {
        let line = run(case)?;
        let row = format!(
            "| {} | {} | {} | {:.1} s | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} |",
            case.what,
            case.nodes,
            case.blocks / case.nodes,
            line.one,
            line.mean,
            line.slowest,
            line.origin,
            line.reader,
            line.first,
        );
        println!("{row}  ({:.0} s)", line.seconds);
        table += &format!("{row}\n");
        ran.push((case.nodes, line.seconds));
    }
    if write {
        let most = ran.iter().max_by_key(|(nodes, _)| *nodes);
        let most = most.map_or(String::new(), |(nodes, seconds)| {
            format!("The largest cluster here, {nodes} nodes, took {seconds:.0} s to simulate.\n\n")
        });
        let text = format!("{HEAD}\n{table}\n{most}{TAIL}");
        fs::write(cmd::root().join(REPORT), text).with_context(|| format!("cannot write {REPORT}"))?;
        eprintln!("written to {REPORT}");
    }
    Ok(())
}

fn run(case: &Case) -> Result<Line> {
    let mut command = Command::new(cmd::root().join("target/release/examples/simulate"));
    for (name, value) in [
        ("--nodes", case.nodes),
        ("--blocks", case.blocks),
        ("--block-size", case.block_size),
        ("--link", case.link),
        ("--sink", case.sink),
        ("--origin", case.origin),
        ("--latency", case.latency),
    ] {
        command.args([name, &value.to_string()]);
    }
    if case.owners_only {
        command.arg("--owners-only");
    }
    let line = cmd::output(&mut command)?;
    serde_json::from_str(&line).with_context(|| format!("the simulation printed {line:?}"))
}

const HEAD: &str = "# Many nodes, simulated\n\n\
What `cargo xtask cluster --simulate` computes, which writes this file with `--write`: the agent's own placement and scheduling\n\
(`ossc-agent/src/peer`, without its sockets) on simulated links and clocks. All nodes run and know each other, and begin in the\n\
same moment. Times are in multiples of one node alone in the same simulation. \"Reader in order\" is the end of a reader on each\n\
node that reads from the first byte to the last as fast as its node takes bytes in, and is helped by nothing; \"first 1 %\" when\n\
it has read so much.\n";

const TAIL: &str = "\"664 GB\": blocks of 16 MiB, 100 Gbit/s for each node and for OSS, of which a node takes in 65.6 (8.2 GB/s); 160 ms\n\
for a block from OSS. \"As the testbed\": what [the testbed](cluster.md) shapes, blocks of 128 KiB; 8 nodes behind 100 Mbit/s\n\
that take in 66, 50 nodes behind 32 that take in 21. \"Owners only\": nobody else is asked.\n\n\
## Limits\n\n\
- Links are queues without end, first come first served: no TCP, no switch that drops, no processor, no disk.\n\
- Readers ask for nothing out of turn; a node that fails, fails at once.\n\
- News are asked for as the agent does, eight nodes four times a second, and arrive at once.\n\
- What a start takes weighs the more the shorter the load: blocks a node matter.\n\
- Every node keeps two tables of what all others have: each 2.5 MB for 500 nodes and the blocks of 664 GB, 25 MB for 5000, and\n  \
all nodes' of 5000 together 250 GB. So 5000 are not simulated. Each of them would need 156 s to ask all others once, so that what\n  \
it knows is older than the load, and it would live on owners and redirects alone. For so many, give each 500 nodes a\n  \
`--peers-cluster` of their own, which reads OSS once per cluster.\n";
