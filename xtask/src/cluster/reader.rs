//! A reader on a node: reads the files from the first byte to the last while they arrive, as a loader of models does, and
//! tells when it had how much, and what it has read.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use crc_fast::{CrcAlgorithm, Digest};

/// Read at a time.
const PIECE: usize = 128 << 10;

/// A reader at work.
#[derive(Debug)]
pub(crate) struct Reader(JoinHandle<Result<Seen>>);

/// What it saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Seconds since the load began until the first hundredth had been read.
    pub(crate) first: f64,
    /// And until all had.
    pub(crate) end: f64,
    /// CRC-64 of all of it.
    pub(crate) sum: u64,
}

impl Reader {
    /// Reads `files` of `size` bytes each, from the moment the load begins.
    pub(crate) fn start(files: Vec<PathBuf>, size: u64, begin: SystemTime) -> Self {
        Self(std::thread::spawn(move || {
            std::thread::sleep(begin.duration_since(SystemTime::now()).unwrap_or_default());
            read(&files, size, begin)
        }))
    }

    /// Waits for its end.
    pub(crate) fn end(self) -> Result<Seen> {
        self.0.join().map_err(|_| anyhow!("a reader panicked"))?
    }
}

/// What is in the files now.
pub(crate) fn sum(files: &[PathBuf], size: u64) -> Result<u64> {
    Ok(read(files, size, SystemTime::now())?.sum)
}

fn read(files: &[PathBuf], size: u64, begin: SystemTime) -> Result<Seen> {
    let since = || begin.elapsed().unwrap_or(Duration::ZERO).as_secs_f64();
    let mut digest = Digest::new(CrcAlgorithm::Crc64Xz);
    let (mut done, hundredth) = (0, size * files.len() as u64 / 100);
    let mut first = None;
    let mut piece = vec![0; PIECE];
    for path in files {
        let mut file = open(path)?;
        loop {
            let read = file.read(&mut piece).with_context(|| format!("cannot read {}", path.display()))?;
            if read == 0 {
                break;
            }
            digest.update(piece.get(..read).unwrap_or_default());
            done += read as u64;
            if done >= hundredth && first.is_none() {
                first = Some(since());
            }
        }
    }
    anyhow::ensure!(done == size * files.len() as u64, "a reader had {done} bytes");
    Ok(Seen { first: first.unwrap_or_default(), end: since(), sum: digest.finalize() })
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}
