//! The floor program, `xtask/bench/floor.c`: compiled once into target/bench, run once a sample.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::table::Sample;
use super::timeline::Watch;
use super::{PREFIX, Workload, compile};
use crate::cmd::{self, Guarded};
use crate::server::{BUCKET, Server};

/// Which of these receives faster depends on the processor's caches; the best one is the floor.
pub(super) const BUFFERS_KIB: [u32; 3] = [128, 256, 512];
/// Of these, that of loads whose files are read afterwards.
const KEEP_KIB: u32 = 128;

/// What the program prints.
#[derive(Debug, Deserialize)]
struct Printed {
    seconds: f64,
    cpu_seconds: f64,
}

/// The compiled program.
#[derive(Debug)]
pub(super) struct Floor {
    program: PathBuf,
}

impl Floor {
    /// Compiles it.
    pub(super) fn compile() -> Result<Self> {
        Ok(Self { program: compile("floor")? })
    }

    /// One load; the program removes its files itself.
    pub(super) fn run(
        &self,
        server: &Server,
        workload: Workload,
        buffer_kib: u32,
        directory: &Path,
    ) -> Result<Sample> {
        Ok(self.load(server, workload, buffer_kib, directory, false)?.0)
    }

    /// The same, and what was written when.
    pub(super) fn watched(
        &self,
        server: &Server,
        workload: Workload,
        buffer_kib: u32,
        directory: &Path,
    ) -> Result<(Sample, Vec<(f64, f64)>)> {
        self.load(server, workload, buffer_kib, directory, false)
    }

    /// One load that leaves its files.
    pub(super) fn keep(&self, server: &Server, workload: Workload, directory: &Path) -> Result<Sample> {
        Ok(self.load(server, workload, KEEP_KIB, directory, true)?.0)
    }

    fn load(
        &self,
        server: &Server,
        workload: Workload,
        buffer_kib: u32,
        directory: &Path,
        keep: bool,
    ) -> Result<(Sample, Vec<(f64, f64)>)> {
        let authority = server.endpoint().trim_start_matches("http://");
        let (address, port) = authority.split_once(':').context("the server's address has no port")?;
        let mut floor = cmd::tied(&self.program);
        floor
            .args([
                address.to_owned(),
                port.to_owned(),
                format!("/{BUCKET}/{PREFIX}"),
                workload.connections.to_string(),
                workload.bytes().to_string(),
                workload.files.to_string(),
            ])
            .arg(directory)
            .arg(buffer_kib.to_string())
            .args(keep.then_some("keep"));
        let mut process = Guarded::spawn(floor.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let watch = Watch::start(process.child().id());
        let mut printed = String::new();
        let mut stdout = process.child().stdout.take().context("the floor program has no standard output")?;
        stdout.read_to_string(&mut printed).context("cannot read what the floor program prints")?;
        cmd::succeeded(process.child().wait().context("cannot wait for the floor program")?, &floor)?;
        let line = watch.end()?;
        let printed: Printed =
            serde_json::from_str(&printed).context("the floor program printed no figures")?;
        Ok((Sample { seconds: printed.seconds, cpu_seconds: printed.cpu_seconds, max_rss: None }, line))
    }
}
