//! `cargo xtask bench`: the agent against the floor of this machine, in one run. Figures of a shared or
//! virtual machine drift by the minute, so contenders take turns, after a warm-up, and the table gives
//! medians and ratios. Every run starts from files that do not exist and a clean page cache.
//!
//! The rows: a synthetic model over unshaped loopback, from the start of the agent to its last byte
//! complete and verified; the same with few and many connections (`connections`) and over links of a known speed
//! (`shaped`); what is observed of readers (`observed`). A full run writes docs/bench/README.md and its plots; `--quick`
//! only prints, because its figures are not for comparing. Very large models (`scale`), other programs (`contenders`), a
//! real reader (`llama`) and what a load costs others (`bystander`) have runs of their own.

mod agent;
mod bystander;
mod connections;
mod contenders;
mod floor;
// The tests' own links, of which not all is of use here.
#[path = "../../tests/e2e/src/links.rs"]
#[expect(unreachable_pub, dead_code, reason = "a module of the end-to-end tests, used as it is")]
mod links;
mod llama;
mod machine;
mod memory;
mod observed;
mod reader;
mod scale;
mod shaped;
mod table;
mod timeline;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::plot::{Chart, Mark, Series};
use crate::server::{Server, Settings};
use crate::{build, cmd, setup};
use floor::Floor;
use memory::Reserve;
use table::{Row, Sample};

/// Where the results of a full run are kept.
const REPORT: &str = "docs/bench/README.md";
/// The plot of its first table.
const PLOT: &str = "loads.svg";
const CONTENDERS_REPORT: &str = "docs/bench/contenders.md";
const SCALE_REPORT: &str = "docs/bench/scale.md";
const LLAMA_REPORT: &str = "docs/bench/llama.md";
/// Key prefix of the synthetic objects.
const PREFIX: &str = "synthetic/";
/// A slow tail: a request takes about 100 ms (`fetch::rate`), and these a hundred times as long.
const STALLS: &str = "stall=10000,op=get,probability=0.01,seed=7";
/// Interleaved rounds of a full run: the median of five stands two disturbed ones.
const ROUNDS: usize = 5;
/// Rounds of a quick run, and of one with many contenders.
const FEW_ROUNDS: usize = 3;

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// 1 GiB in 2 files and 3 rounds instead of 4 GiB in 8 files and 5 rounds; prints without writing the report
    #[arg(long)]
    quick: bool,
    /// Connections of each contender
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    connections: u32,
    /// Instead of all that, a model of so many gigabytes (664 if not said) that is thrown away as it comes, and a bucket
    /// of 100 000 objects; writes docs/bench/scale.md
    #[arg(long, value_name = "GIGABYTES", num_args = 0..=1, default_missing_value = "664", conflicts_with = "quick")]
    scale: Option<u64>,
    /// Instead of all that, what else a model could be loaded with; installs it; writes docs/bench/contenders.md
    #[arg(long, conflicts_with = "scale")]
    contenders: bool,
    /// Instead of all that, llama.cpp behind a link of 2 Gbit/s; writes docs/bench/llama.md
    #[arg(long, conflicts_with_all = ["scale", "contenders", "quick", "bystander"])]
    llama: bool,
    /// Instead of all that, what system calls of other processes cost while files are incomplete (docs/performance.md)
    #[arg(long, conflicts_with_all = ["scale", "contenders", "quick"])]
    bystander: bool,
    /// Rounds after the warm-up (default: 5, or 3 with --quick, --contenders or --llama)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: Option<u32>,
    /// Directory on the file system to measure (default: target/bench)
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What is loaded.
#[derive(Debug, Clone, Copy)]
struct Workload {
    files: u32,
    file_bytes: u64,
    connections: u32,
}

impl Workload {
    fn bytes(&self) -> u64 {
        u64::from(self.files) * self.file_bytes
    }
}

/// Sets up, builds, measures, prints, and writes the report.
pub(crate) fn bench(args: &Args) -> Result<()> {
    cmd::require_root("bench")?;
    setup::setup()?;
    // Whoever names an agent has built what there is to build.
    if !args.bystander || std::env::var_os(bystander::AGENT).is_none() {
        build::build()?;
        Server::build()?;
    }
    let directory = args.dir.clone().unwrap_or_else(|| cmd::root().join("target/bench"));
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let scratch = tempfile::Builder::new().prefix("run-").tempdir_in(&directory)?;
    let workload = Workload {
        files: if args.quick { 2 } else { 8 },
        file_bytes: 512 << 20,
        connections: args.connections,
    };
    let rounds = if args.quick || args.contenders || args.llama { FEW_ROUNDS } else { ROUNDS };
    let rounds = args.rounds.map_or(rounds, |rounds| rounds as usize);
    let machine = machine::describe(scratch.path())?;
    if let Some(gigabytes) = args.scale {
        let report = scale::report(gigabytes, args.connections, scratch.path());
        scratch.close().context("cannot remove the files of the bench")?;
        return write(SCALE_REPORT, &report?);
    }
    if args.llama {
        let report = llama::report(rounds, &machine, scratch.path());
        scratch.close().context("cannot remove the files of the bench")?;
        return write(LLAMA_REPORT, &report?);
    }
    if args.bystander {
        let report = bystander::report(rounds, scratch.path());
        scratch.close().context("cannot remove the files of the bench")?;
        return report.map(|report| println!("{report}"));
    }
    if args.contenders {
        let report = contenders::report(args.quick, rounds, args.connections, &machine, scratch.path());
        scratch.close().context("cannot remove the files of the bench")?;
        return if args.quick {
            report.map(|report| println!("{report}"))
        } else {
            write(CONTENDERS_REPORT, &report?)
        };
    }
    let rows = rows(workload, rounds, scratch.path());
    let connections = connections::section(args.quick, scratch.path());
    let shaped = shaped::section(args.quick, scratch.path());
    let observed = observed::section(args.quick, scratch.path());
    scratch.close().context("cannot remove the files of the bench")?;
    let (rows, plot) = rows?;
    let (connections, connections_plot) = connections?;
    let (shaped, shaped_plot) = shaped?;
    let report = report(workload, rounds, &rows, &machine) + &connections + &shaped + &observed?;
    if args.quick {
        println!("{report}");
        return Ok(());
    }
    let plots = [(PLOT, plot), (connections::PLOT, connections_plot), (shaped::PLOT, shaped_plot)];
    for (name, plot) in plots {
        let path = cmd::root().join(REPORT).with_file_name(name);
        fs::write(&path, plot).with_context(|| format!("cannot write {}", path.display()))?;
    }
    write(REPORT, &report)
}

/// Prints a report and writes it to where it is kept.
fn write(name: &str, report: &str) -> Result<()> {
    println!("{report}");
    let path = cmd::root().join(name);
    fs::create_dir_all(path.parent().unwrap_or(&path))?;
    fs::write(&path, report).with_context(|| format!("cannot write {name}"))?;
    eprintln!("written to {name}");
    Ok(())
}

/// Compiles a program of xtask/bench with the system's C compiler; where it is then.
fn compile(name: &str) -> Result<PathBuf> {
    let target = cmd::root().join("target/bench");
    fs::create_dir_all(&target)?;
    let program = target.join(name);
    cmd::run(
        Command::new("cc")
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
            .arg(&program)
            .arg(cmd::root().join("xtask/bench").join(format!("{name}.c"))),
    )?;
    Ok(program)
}

/// Measures every contender, round by round; gives the rows and a plot.
fn rows(workload: Workload, rounds: usize, scratch: &Path) -> Result<(Vec<Row>, String)> {
    let floor = Floor::compile()?;
    let objects = (0..workload.files).map(|file| (format!("{PREFIX}{file:02}.bin"), workload.file_bytes));
    let plain = Settings { synthetic: objects.collect(), public: true, ..Settings::default() };
    let tls = Settings { tls: Some(scratch.join("ca.pem")), ..plain.clone() };
    let stalls = Settings { faults: vec![STALLS.to_owned()], ..plain.clone() };
    // The agent's contenders, each with a server of its own; the first one is the floor's, too.
    let agents = [
        ("ossc-agent", Server::start(&plain)?),
        ("ossc-agent, https", Server::start(&tls)?),
        ("ossc-agent, one reply in a hundred stands still for 10 s", Server::start(&stalls)?),
    ];
    let server = &agents[0].1;

    // The contenders: the floor with each buffer size, then the agent.
    let floors = floor::BUFFERS_KIB.len();
    let contenders = floors + agents.len();
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); contenders];
    let mut lines = vec![Vec::new(); contenders];
    for round in 0..=rounds {
        // Each round starts with another one, so that none always comes after the same.
        for contender in (round..round + contenders).map(|turn| turn % contenders) {
            let _memory = settle(workload.bytes())?;
            let (sample, line) = match floor::BUFFERS_KIB.get(contender) {
                Some(&buffer_kib) => floor.watched(server, workload, buffer_kib, scratch)?,
                None => agent::watched(&agents[contender - floors].1, workload, scratch)?,
            };
            eprintln!("round {round}, contender {contender}: {:.2} s", sample.seconds);
            // The first round is the warm-up.
            if round > 0 {
                samples[contender].push(sample);
            }
            lines[contender] = line;
        }
    }
    let bytes = workload.bytes();
    let agents = agents
        .iter()
        .zip(samples.get(floors..).unwrap_or_default())
        .map(|((name, _), samples)| Row::new((*name).to_owned(), bytes, samples));
    // The floor is whichever buffer size does better on this machine.
    let floors = samples
        .iter()
        .zip(floor::BUFFERS_KIB)
        .map(|(samples, kib)| Row::new(format!("recv + pwrite, {kib} KiB buffers (floor)"), bytes, samples));
    let floor = floors.max_by(|a, b| a.throughput.total_cmp(&b.throughput));
    let rows: Vec<Row> = floor.into_iter().chain(agents).collect();
    let mut chart = Chart::new("What each contender had written, in its last round", "seconds", "GB");
    let floor_lines = floor::BUFFERS_KIB.map(|kib| format!("floor, {kib} KiB"));
    let names = floor_lines.into_iter().chain(rows.iter().skip(1).map(|row| row.name().to_owned()));
    for (name, points) in names.zip(lines) {
        chart.add(Series { name, mark: Mark::Line, points });
    }
    Ok((rows, chart.svg()))
}

/// Writes back what the last run left and drops the clean page cache, so that runs do not pay for each other. Gives
/// the memory for the next one, which is to be kept until its end.
fn settle(bytes: u64) -> Result<Reserve> {
    cmd::quietly(&mut Command::new("sync"))?;
    fs::write("/proc/sys/vm/drop_caches", "1").context("cannot drop the page cache")?;
    Reserve::fill(bytes)
}

fn report(workload: Workload, rounds: usize, rows: &[Row], machine: &str) -> String {
    let Workload { files, file_bytes, connections } = workload;
    format!(
        "# Bench\n\n\
         Written by `cargo xtask bench`. Each figure is the median of {rounds} interleaved rounds after a warm-up, with the \
         slowest and fastest in brackets. Very large models: `cargo xtask bench --scale`; \
         what else a model could be loaded with: `cargo xtask bench --contenders`; llama.cpp as the reader: `cargo xtask bench --llama`.\n\n\
         {machine}\n\
         ## Load over unshaped loopback\n\n\
         {files} files of {} MiB from the local test server over plain HTTP, {connections} connections, to files that do \
         not exist yet, from the start of the process to the last byte complete and verified. The floor is a C program \
         that receives and writes the same bytes from the same server and does nothing else \
         ([floor.c](../../xtask/bench/floor.c)), timed from the creation of its files. Client and server share the machine's processors in both cases; CPU time is the client's alone until \
         then, for the agent with its start-up.\n\n\
         {}\n![What each contender had written when]({PLOT})\n",
        file_bytes >> 20,
        table::markdown(rows)
    )
}
