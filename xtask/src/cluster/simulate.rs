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
    Case { what: "the testbed, owners only", owners_only: true, ..TESTBED },
    Case { nodes: 50, blocks: 1600, link: 32, sink: 21, origin: 32, ..TESTBED },
    Case {
        what: "the testbed, owners only",
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
pub(super) fn simulate(most: Option<u8>, write: bool) -> Result<()> {
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
    }
    if write {
        let text = format!("{HEAD}\n{table}\n{TAIL}");
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
Written by `cargo xtask cluster --simulate --write`: the agent's own placement and scheduling (`ossc-agent/src/peer`, without \
its sockets) on simulated links and clocks. All nodes run and know each other, and begin in the same moment. Times are in \
multiples of one node alone in the same simulation. \"Reader in order\" is the end of a reader on each node that reads from the \
first byte to the last as fast as its node takes bytes in, and is helped by nothing; \"first 1 %\" when it has read so much.\n";

const TAIL: &str = "\"664 GB\": blocks of 16 MiB, 100 Gbit/s for each node and for OSS, of which a node takes in 65.6 (8.2 GB/s); 160 ms for a block \
from OSS. \"As the testbed\": what [the testbed](cluster.md) shapes, blocks of 128 KiB. \"Owners only\": nobody else is asked, \
which is worse where a node's share of the news is old.\n\n\
## Limits\n\n\
- Links are queues without end, first come first served: no TCP, no switch that drops, no processor, no disk.\n\
- Readers ask for nothing out of turn; a failed node fails at once.\n\
- News are asked for as the agent does, eight nodes four times a second, and arrive at once.\n\
- Every node keeps a table of every other: 500 nodes take 2 GB and minutes here. 5000 would take 250 GB, and each of them 5000 \
tables of 5 KB for 16 MiB blocks (25 MB) and 156 s to ask all others once, so that what it knows is older than the load; they \
would live on owners and redirects alone. Not simulated, and not recommended: give each 500 nodes a `--peers-cluster` of \
their own, which reads OSS once per cluster.\n";
