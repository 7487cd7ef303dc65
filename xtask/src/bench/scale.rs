//! The bench's part on models that are far larger than this machine: a load of hundreds of gigabytes through the whole
//! agent, the start on a model of that size that is complete, and a bucket of very many objects. The agent is the
//! release agent as it is. It writes to a tmpfs, out of which another program takes the bytes again while they come
//! (`xtask/bench/eater.c`); that every byte came and is right is what the agent's own checksum of each object says.
//! A report of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::agent::{Agent, Options};
use super::table::{Sample, median, sorted};
use super::{compile, machine, settle};
use crate::cmd::{self, Guarded};
use crate::server::{Server, Settings};

/// Files of each model, as many as those of a DeepSeek-R1 in eight bits.
const FILES: u64 = 15;
const GIGABYTE: u64 = 1_000_000_000;
/// What the large model is compared with, and how often that is loaded.
const SMALL: u64 = 2;
const SMALL_ROUNDS: usize = 5;
/// Starts on the complete model.
const STARTS: usize = 5;
/// Objects of the listing.
const OBJECTS: u32 = 100_000;
/// Memory that a large load uses at one time, mostly what is left of each file.
const MEMORY: u64 = 8 << 30;

/// A tmpfs; unmounted when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: PathBuf) -> Result<Self> {
        fs::create_dir(&at)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=2000g,huge=within_size", "ossc-bench"]).arg(&at);
        cmd::quietly(&mut mount)?;
        Ok(Self(at))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(error) = cmd::quietly(Command::new("umount").arg("--lazy").arg(&self.0)) {
            eprintln!("xtask: {} is still mounted: {error:#}", self.0.display());
        }
    }
}

/// Measures and gives the report.
pub(super) fn report(gigabytes: u64, connections: u32, scratch: &Path) -> Result<String> {
    let eater = compile("eater")?;
    let serve = |name: &str, gigabytes: u64| {
        let each = gigabytes * GIGABYTE / FILES;
        let objects = (0..FILES).map(|file| (format!("{name}/{file:02}.bin"), each));
        objects.collect::<Vec<_>>()
    };
    let mut synthetic = serve("small", SMALL);
    synthetic.extend(serve("large", gigabytes));
    synthetic.push((format!("many/{{{OBJECTS}}}.bin"), 4096));
    let server = Server::start(&Settings { synthetic, ..Settings::default() })?;
    let tmpfs = Tmpfs::mount(scratch.join("tmpfs"))?;
    let machine = machine::describe(&tmpfs.0)?;

    let start = |prefix: &str, work: &Path| {
        Agent::start(&server, Options { prefix, connections, sources: "", stays: false }, work)
    };
    let load = |name: &str, memory: u64, is_eaten: bool| -> Result<Sample> {
        let work = tmpfs.0.join(name);
        let _memory = settle(memory)?;
        let mut agent = start(&format!("{name}/"), &work)?;
        let mut eat = cmd::tied(&eater);
        eat.arg(agent.pid().to_string()).arg(&work).stdin(Stdio::null());
        let _eater = is_eaten.then(|| Guarded::spawn(&mut eat)).transpose()?;
        let sample = agent.complete()?;
        agent.end()?;
        eprintln!("{name}: {:.2} s, {:.2} s of CPU", sample.seconds, sample.cpu_seconds);
        Ok(sample)
    };
    let mut small = Vec::new();
    for _ in 0..=SMALL_ROUNDS {
        small.push(load("small", SMALL * GIGABYTE, false)?);
        fs::remove_dir_all(tmpfs.0.join("small")).context("cannot remove the small model")?;
    }
    // The first one warms up.
    let small = middle(small.get(1..).unwrap_or_default());
    let large = load("large", MEMORY.min(gigabytes * GIGABYTE), true)?;
    let starts: Result<Vec<_>> = (0..STARTS).map(|_| load("large", 0, false)).collect();
    let starts = middle(&starts?);

    let mut listings = Vec::new();
    for _ in 0..STARTS {
        let work = tempfile::tempdir_in(scratch)?;
        let mut agent = start("many/", work.path())?;
        let listed = agent.wait_for("objects listed")?.counts();
        let of = |name: &str| listed.iter().find(|(field, _)| field == name).map(|(_, number)| *number);
        anyhow::ensure!(of("objects") == Some(OBJECTS.into()), "not all objects were listed: {listed:?}");
        listings.push(of("ms").context("the agent did not say how long a listing took")? as f64 / 1e3);
    }
    let listing = median(&sorted(listings.into_iter()));
    Ok(text(&machine, gigabytes, connections, [small, large, starts], listing))
}

/// Medians, and the largest memory.
fn middle(samples: &[Sample]) -> Sample {
    let of = |value: fn(&Sample) -> f64| median(&sorted(samples.iter().map(value)));
    Sample {
        seconds: of(|sample| sample.seconds),
        cpu_seconds: of(|sample| sample.cpu_seconds),
        max_rss: samples.iter().filter_map(|sample| sample.max_rss).max(),
    }
}

fn text(
    machine: &str,
    gigabytes: u64,
    connections: u32,
    [small, large, start]: [Sample; 3],
    listing: f64,
) -> String {
    let row = |gigabytes: u64, sample: Sample| {
        let size = gigabytes as f64;
        format!(
            "| {gigabytes} GB | {:.1} | {:.2} | {:.3} | {:.2} | {} |\n",
            sample.seconds,
            size / sample.seconds,
            sample.cpu_seconds / size,
            sample.cpu_seconds / size / (small.cpu_seconds / SMALL as f64),
            sample.max_rss.unwrap_or_default().div_ceil(1 << 20)
        )
    };
    format!(
        "# Scale\n\n\
         Written by `cargo xtask bench --scale {gigabytes}`.\n\n\
         {machine}\n\
         ## Loads\n\n\
         {FILES} files from the local test server over plain HTTP, {connections} connections, from the start of the process \
         to the last byte complete and verified by the CRC-64 of each object. The files are on a tmpfs, out of which \
         another program takes the bytes again while they come ([eater.c](../../xtask/bench/eater.c)). CPU time is the \
         agent's, with its start-up; of {SMALL} GB the medians of {SMALL_ROUNDS} loads after a warm-up.\n\n\
         | model | seconds | GB/s | CPU s/GB | of that with {SMALL} GB | max RSS, MiB |\n|---|---|---|---|---|---|\n{}{}\n\
         Asked for: at most 64 MiB and what is in flight, and no more CPU time a byte than a small model takes.\n\n\
         ## Start on a complete model\n\n\
         The agent is started again on the {gigabytes} GB, with `--exit-when-complete`: {:.2} s until it says that all is \
         complete, {:.2} s of CPU time, {} MiB (medians of {STARTS}). Asked for: under a second of CPU time.\n\n\
         ## Listing\n\n\
         {OBJECTS} objects in pages of 1000: {listing:.2} s (median of {STARTS}). Asked for: seconds.\n",
        row(SMALL, small),
        row(gigabytes, large),
        start.seconds,
        start.cpu_seconds,
        start.max_rss.unwrap_or_default().div_ceil(1 << 20),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_compared_by_the_byte() {
        let sample = |seconds, cpu_seconds| Sample { seconds, cpu_seconds, max_rss: Some(40 << 20) };
        let report = text("", 664, 8, [sample(1.0, 1.0), sample(332.0, 166.0), sample(0.1, 0.05)], 1.5);
        assert!(report.contains("| 664 GB | 332.0 | 2.00 | 0.250 | 0.50 | 40 |\n"), "{report}");
    }
}
