//! `ossc-kernel-check`: finds out what the agent can do on the running kernel, and says it in JSON lines.
//!
//! Driven by `cargo xtask vm`, which runs it in emulated machines with other kernels and on this machine, and knows
//! what each of them should show. It needs root, the agent (`OSSC_AGENT`) and a Python with safetensors
//! (`OSSC_TEST_PYTHON`), like the end-to-end tests whose parts it uses. Loads are small, since an emulated machine is
//! ten times as slow. A check that cannot be carried out is a line too; the next one is still run.

mod doctor;
mod failures;
mod patterns;
mod readers;
mod report;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use e2e::agent::Build;
use e2e::scratch::{FileSystem, Scratch};

use crate::report::{DOCTOR, LOCKED_DOWN, Line, Probes};

/// Finds out what the agent can do on the running kernel.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the lines go; standard output unless given.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Lock the kernel down in the end, which only a reboot takes back: for emulated machines.
    #[arg(long)]
    lock_down: bool,
}

/// What model files are put on: a disk file system and memory.
const FILE_SYSTEMS: [FileSystem; 2] = [FileSystem::Ext4, FileSystem::Tmpfs];
/// Bytes of the file system for the patterns: the file, with room for what a file system keeps for itself.
const PATTERN_DISK: u64 = patterns::SIZE * 3;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ossc-kernel-check: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let started = Instant::now();
    let reader = std::env::current_exe().context("own path")?.with_file_name("ossc-reader");
    ensure!(reader.is_file(), "{} is missing: `cargo build -p e2e`", reader.display());
    let mut report = Report::open(arguments)?;
    let banner = std::fs::read_to_string("/proc/version").context("the kernel's version")?;
    let version = version(&banner).with_context(|| format!("no version in {banner:?}"))?.to_owned();
    report.tell(&Line::Kernel { version, locks_down: arguments.lock_down })?;
    for file_system in FILE_SYSTEMS {
        check(&mut report, &reader, file_system)?;
    }
    report.tell_outcome(DOCTOR, doctor::check().map(Line::Doctor))?;
    if arguments.lock_down {
        report.tell_outcome(LOCKED_DOWN, doctor::locked_down(&reader).map(Line::Doctor))?;
    }
    report.tell(&Line::End { ms: millis(started.elapsed()) })
}

/// Everything on one file system. Only a report that cannot be written is an error.
fn check(report: &mut Report, reader: &Path, file_system: FileSystem) -> anyhow::Result<()> {
    let name = |check: &str| format!("{check} on {}", file_system.name());
    let mut missing = Vec::new();
    match Scratch::mounted(file_system, PATTERN_DISK) {
        Ok(disk) => {
            for pattern in &patterns::PATTERNS {
                let outcome = patterns::check(&disk, file_system, pattern).map(|(line, unseen)| {
                    missing.extend(unseen);
                    Line::Trace(line)
                });
                report.tell_outcome(&name(pattern.name), outcome)?;
            }
        }
        Err(error) => report.tell_outcome(&name("trace"), Err(error))?,
    }
    match readers::check(reader, file_system) {
        Ok((lines, seen)) => {
            lines.into_iter().try_for_each(|line| report.tell(&Line::Readers(line)))?;
            missing.extend(seen.missing);
            missing.sort();
            missing.dedup();
            let file_system = file_system.name().to_owned();
            report.tell(&Line::Probes(Probes { file_system, attached: seen.attached, missing }))?;
        }
        Err(error) => report.tell_outcome(&name("readers"), Err(error))?,
    }
    report.tell_outcome(&name("denied"), failures::denied(reader, file_system).map(Line::Denied))?;
    report.tell_outcome(&name("taken over"), failures::taken_over(reader, file_system).map(Line::TakenOver))
}

/// Where the lines go.
struct Report {
    out: Box<dyn Write>,
}

impl Report {
    fn open(arguments: &Arguments) -> anyhow::Result<Self> {
        Build::UnderTest.binary()?;
        let out: Box<dyn Write> = match &arguments.output {
            Some(path) => Box::new(
                OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(path)
                    .with_context(|| format!("open {}", path.display()))?,
            ),
            None => Box::new(std::io::stdout()),
        };
        Ok(Self { out })
    }

    /// One write a line, so that a machine that hangs has told all it found.
    fn tell(&mut self, line: &Line) -> anyhow::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).context("write the report")
    }

    fn tell_outcome(&mut self, name: &str, outcome: anyhow::Result<Line>) -> anyhow::Result<()> {
        let line = outcome
            .unwrap_or_else(|error| Line::Broken { name: name.to_owned(), error: format!("{error:#}") });
        self.tell(&line)
    }
}

/// The version in "Linux version 6.18.44-custom (...". Debian's releases have numbers of their own there, and the
/// version near the end: "Linux version 6.1.0-56-cloud-amd64 (...) ... Debian 6.1.192-2 (2026-11-16)".
fn version(banner: &str) -> Option<&str> {
    let debian = banner.rsplit_once(" Debian ").map(|(_, version)| version);
    let version = debian.or_else(|| banner.strip_prefix("Linux version "))?;
    version.split(['-', '+', ' ']).next()
}

/// Whole milliseconds.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_not_the_release() {
        for (banner, version) in [
            ("Linux version 6.18.44-custom (a@b) (gcc 12) #1 SMP", Some("6.18.44")),
            (
                "Linux version 6.1.0-56-cloud-amd64 (a@b) (Debian 2.40) #1 SMP Debian 6.1.192-2 (2026)",
                Some("6.1.192"),
            ),
            (
                "Linux version 6.12.117+deb12-cloud-amd64 (a@b) #1 SMP Debian 6.12.117-1~deb12u1 (2026)",
                Some("6.12.117"),
            ),
            ("something else", None),
        ] {
            assert_eq!(super::version(banner), version, "{banner}");
        }
    }
}
