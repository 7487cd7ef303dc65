//! The floor program, `xtask/bench/floor.c`: compiled once into target/bench, run once a sample.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::table::Sample;
use super::{PREFIX, Workload, compile};
use crate::cmd;
use crate::server::{BUCKET, Server};

/// Which of these receives faster depends on the processor's caches; the best one is the floor.
pub(super) const BUFFERS_KIB: [u32; 3] = [256, 512, 1024];
/// Of these, that of loads whose files are read afterwards.
const KEEP_KIB: u32 = 512;

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
        self.load(server, workload, buffer_kib, directory, false)
    }

    /// One load that leaves its files.
    pub(super) fn keep(&self, server: &Server, workload: Workload, directory: &Path) -> Result<Sample> {
        self.load(server, workload, KEEP_KIB, directory, true)
    }

    fn load(
        &self,
        server: &Server,
        workload: Workload,
        buffer_kib: u32,
        directory: &Path,
        keep: bool,
    ) -> Result<Sample> {
        let authority = server.endpoint().trim_start_matches("http://");
        let (address, port) = authority.split_once(':').context("the server's address has no port")?;
        let printed = cmd::output(
            cmd::tied(&self.program)
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
                .args(keep.then_some("keep")),
        )?;
        let printed: Printed =
            serde_json::from_str(&printed).context("the floor program printed no figures")?;
        Ok(Sample { seconds: printed.seconds, cpu_seconds: printed.cpu_seconds, max_rss: None })
    }
}
