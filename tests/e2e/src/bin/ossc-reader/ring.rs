//! Reads through io_uring, as batches: one io_uring_enter(2) with several reads, the way streaming loaders do.
//!
//! Driven by `kind`. A read that is cut short is asked for again from where it ended.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

use e2e::content::{Mismatch, Target};
use e2e::sys::{Ring, RingFile, RingRead};
use nix::errno::Errno;

use crate::Finding;

/// Reads of one batch; the range is cut into as many.
const BATCH: u64 = 4;

/// How the reads name the file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Naming {
    /// By descriptor.
    Descriptor,
    /// As a registered file.
    Registered,
}

/// Reads `range` in one batch, and the rest of what came short in further ones, and verifies it.
pub(crate) fn read(target: &Target, range: Range<u64>, naming: Naming) -> Result<(), Finding> {
    let file = File::open(target.path())?;
    let mut ring = Ring::new(8)?;
    let name = match naming {
        Naming::Descriptor => RingFile::Plain(file.as_raw_fd()),
        Naming::Registered => {
            ring.register(&file)?;
            RingFile::Registered(0)
        }
    };
    let piece = (range.end - range.start).div_ceil(BATCH).max(1);
    let mut wanted: Vec<Range<u64>> = (0..BATCH)
        .map(|index| range.start + index * piece)
        .filter(|start| *start < range.end)
        .map(|start| start..(start + piece).min(range.end))
        .collect();
    while !wanted.is_empty() {
        let reads = wanted.iter().map(request).collect::<Result<Vec<_>, Errno>>()?;
        let mut rest = Vec::new();
        for (read, asked) in ring.read(name, reads)?.into_iter().zip(&wanted) {
            let got = read.result?;
            if got == 0 {
                return Err(Mismatch::early_end(asked.start).into());
            }
            target.check(asked.start, read.buffer.get(..got).ok_or(Errno::EOVERFLOW)?)?;
            let end = asked.start + got as u64;
            if end < asked.end {
                rest.push(end..asked.end);
            }
        }
        wanted = rest;
    }
    Ok(())
}

fn request(range: &Range<u64>) -> Result<RingRead, Errno> {
    let length = usize::try_from(range.end - range.start).map_err(|_| Errno::EOVERFLOW)?;
    Ok(RingRead { offset: range.start, buffer: vec![0; length], result: Err(Errno::EINPROGRESS) })
}
