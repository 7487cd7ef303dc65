//! Blocks read again from the disk and compared with their checksums, several at a time: one reader alone does
//! not keep a fast disk busy. Driven by `Found::read_back`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use crc_fast::{CrcAlgorithm, Digest};

use super::Damage;
use crate::base::{BlockIndex, ByteRange, Layout};

/// Bytes asked for at once: large enough for a disk, small enough for every thread to have its own.
const PIECE: usize = 1 << 20;
/// O_DIRECT wants memory and offsets that are multiples of the disk's block (open(2)); none has more than this.
const ALIGNMENT: usize = 4096;
/// Most readers: a disk gains nothing from more.
const MAX_READERS: usize = 8;

/// Those of these blocks that cannot be read, or have another checksum than the one given, in order.
pub(super) fn damaged(file: &File, layout: Layout, blocks: Vec<(BlockIndex, u64)>) -> Vec<Damage> {
    let next = AtomicUsize::new(0);
    let read = || {
        let mut memory = vec![0; PIECE + ALIGNMENT];
        let skip = memory.as_ptr().align_offset(ALIGNMENT);
        let piece = memory.get_mut(skip..skip.saturating_add(PIECE)).unwrap_or_default();
        let mut found = Vec::new();
        while let Some((block, expected)) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let range = layout.range_of(*block);
            let unreadable = match sum(file, range, piece) {
                Ok(crc64) if crc64 == *expected => continue,
                Ok(_) => None,
                Err(error) => Some(error.to_string()),
            };
            found.push(Damage { range, unreadable });
        }
        found
    };
    let readers = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, MAX_READERS);
    let mut found = std::thread::scope(|scope| {
        let others: Vec<_> = (1..readers).map(|_| scope.spawn(read)).collect();
        let mut found = read();
        for other in others {
            // A reader that panicked has blocks nobody looked at; the panic goes on here.
            found.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        found
    });
    found.sort_by_key(|damage| damage.range.start());
    found
}

/// The CRC-64/XZ of a range, read in pieces.
fn sum(file: &File, range: ByteRange, piece: &mut [u8]) -> io::Result<u64> {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Xz);
    let mut at = range.start();
    while at < range.end() {
        // Whole pieces, also at the end of the file, where less comes.
        let got = match file.read_at(piece, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let left = usize::try_from(range.end() - at).unwrap_or(usize::MAX);
        let here = piece.get(..got.min(left)).unwrap_or_default();
        digest.update(here);
        at += here.len() as u64;
    }
    Ok(digest.finalize())
}
