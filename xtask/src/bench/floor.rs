//! The floor program, `xtask/bench/floor.c`: compiled once into target/bench, run once a sample.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::table::Sample;
use super::{PREFIX, Workload};
use crate::cmd;
use crate::server::{BUCKET, Server};

/// Which of these receives faster depends on the processor's caches; the best one is the floor.
pub(super) const BUFFERS_KIB: [u32; 3] = [256, 512, 1024];

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
    /// Compiles it with the system's C compiler.
    pub(super) fn compile() -> Result<Self> {
        let target = cmd::root().join("target/bench");
        fs::create_dir_all(&target)?;
        let program = target.join("floor");
        cmd::run(
            Command::new("cc")
                .args(["-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
                .arg(&program)
                .arg(cmd::root().join("xtask/bench/floor.c")),
        )?;
        Ok(Self { program })
    }

    /// One load; the program removes its files itself.
    pub(super) fn run(
        &self,
        server: &Server,
        workload: Workload,
        buffer_kib: u32,
        directory: &Path,
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
                .arg(buffer_kib.to_string()),
        )?;
        let printed: Printed =
            serde_json::from_str(&printed).context("the floor program printed no figures")?;
        Ok(Sample { seconds: printed.seconds, cpu_seconds: printed.cpu_seconds, max_rss: None })
    }
}
