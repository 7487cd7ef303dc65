//! What system calls of a process that has nothing to do with the model take while its files are incomplete: without an
//! agent, with the probes alone, and with the programs that stop processes on a file system of each kind. For
//! `cargo xtask bench --bystander`, whose figures stand in docs/performance.md.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::reader::Reader;
use super::table::{median, sorted};
use crate::cmd::{self, Guarded};
use crate::server::{Server, Settings};

/// Bytes of the file the bystander reads, all in the page cache.
const FILE_BYTES: u64 = 64 << 20;
/// Bytes of the model, and its bytes a second: it is never complete.
const MODEL_BYTES: u64 = 1 << 30;
const RATE: u64 = 1_000_000;
const PREFIX: &str = "bystander/";
const TMPFS: &str = "/dev/shm";
/// Names another agent than the release build of this tree, to compare two.
pub(super) const AGENT: &str = "OSSC_AGENT";

/// What the bystander does: a mode of reader.c, how often, and how many calls that is.
struct Work {
    name: &'static str,
    mode: &'static str,
    count: u32,
    calls: u32,
}

const WORK: [Work; 4] = [
    Work { name: "getppid", mode: "getppid", count: 1_000_000, calls: 1_000_000 },
    Work { name: "pread of 4 KiB", mode: "small", count: 500_000, calls: 500_000 },
    Work { name: "read of 1 MiB", mode: "sequential", count: 32, calls: 32 * 64 },
    Work { name: "page fault", mode: "faults", count: 500_000, calls: 500_000 },
];

/// What runs meanwhile.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Nothing,
    /// The agent may not stop processes.
    Probes,
    Growth,
    Stop,
}

const STATES: [(State, &str); 4] = [
    (State::Nothing, "no agent"),
    (State::Probes, "probes alone (the agent may not stop processes)"),
    (State::Growth, "and the programs that hold growing mappings (ext4)"),
    (State::Stop, "and those of the stop gate (tmpfs)"),
];

/// Measures `rounds` rounds, in which the states take turns; `scratch` is on ext4, xfs or btrfs.
pub(super) fn report(rounds: usize, scratch: &Path) -> Result<String> {
    let reader = Reader::compile()?;
    let path = scratch.join("bystander.bin");
    let mut file = File::create(&path)?;
    let piece = vec![1; 1 << 20];
    (0..FILE_BYTES >> 20)
        .try_for_each(|_| file.write_all(&piece))
        .context("cannot write the file to read")?;
    drop(file);
    let objects = vec![(format!("{PREFIX}model.bin"), MODEL_BYTES)];
    let server = Server::start(&Settings { synthetic: objects, rate: Some(RATE), ..Settings::default() })?;
    let mut samples = vec![vec![Vec::new(); WORK.len()]; STATES.len()];
    for _ in 0..rounds {
        for (&(state, _), samples) in STATES.iter().zip(&mut samples) {
            let agent = Agent::start(state, &server, scratch)?;
            for (work, samples) in WORK.iter().zip(samples) {
                let arguments = [work.mode.into(), work.count.to_string(), path.display().to_string()];
                samples.push(reader.run(&arguments)?.seconds * 1e9 / f64::from(work.calls));
            }
            drop(agent);
        }
    }
    fs::remove_file(&path)?;
    let mut report = format!("ns a call, medians (lowest to highest) of {rounds} rounds\n\n| state |");
    WORK.iter().for_each(|work| report.push_str(&format!(" {} |", work.name)));
    report.push_str(&format!("\n|---|{}\n", "---|".repeat(WORK.len())));
    for ((_, name), samples) in STATES.iter().zip(samples) {
        report.push_str(&format!("| {name} |"));
        for samples in samples {
            let sorted = sorted(samples.into_iter());
            let (low, high) = (sorted.first().unwrap_or(&f64::NAN), sorted.last().unwrap_or(&f64::NAN));
            report.push_str(&format!(" {:.0} ({low:.0}-{high:.0}) |", median(&sorted)));
        }
        report.push('\n');
    }
    Ok(report)
}

/// An agent whose load goes on for as long as it lives; ended when dropped.
struct Agent {
    _process: Option<Guarded>,
    /// Has the model directory.
    _work: tempfile::TempDir,
}

impl Agent {
    /// Returns when the files are visible and everything is attached.
    fn start(state: State, server: &Server, scratch: &Path) -> Result<Self> {
        let place = if state == State::Stop { Path::new(TMPFS) } else { scratch };
        let work = tempfile::Builder::new().prefix("bystander-").tempdir_in(place)?;
        if state == State::Nothing {
            return Ok(Self { _process: None, _work: work });
        }
        let given = std::env::var_os(AGENT).map(PathBuf::from);
        let agent = given.unwrap_or_else(|| cmd::root().join("target/release/ossc-agent"));
        let mut command = cmd::tied("setpriv");
        if state == State::Probes {
            command.args(["--bounding-set=-kill", "--inh-caps=-kill"]);
        }
        command.arg(agent).arg("--model-dir").arg(work.path().join("models"));
        command.arg("--state-dir").arg(work.path().join("state"));
        // It ends with SIGTERM, and then nobody comes.
        command.args(["--log-format", "json", "--log-level", "info", "--restart-deadline", "0"]);
        command.envs(server.environment(PREFIX));
        let mut process = Guarded::spawn(command.stdin(Stdio::null()).stderr(Stdio::piped()))?;
        let mut log = BufReader::new(process.child().stderr.take().context("the agent has no log")?);
        let mut said = String::new();
        loop {
            let begin = said.len();
            if log.read_line(&mut said).context("cannot read the agent's log")? == 0 {
                bail!("the agent ended early:\n{said}");
            }
            // Said after the names are visible.
            if said.get(begin..).is_some_and(|line| line.contains("eBPF probes attached")) {
                break;
            }
        }
        let is_held = said.contains("\"holds_growth\":true");
        if is_held == (state == State::Probes) {
            bail!("the agent holds growing mappings: {is_held}\n{said}");
        }
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Ok(Self { _process: Some(process), _work: work })
    }
}
