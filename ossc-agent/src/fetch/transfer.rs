//! One extent on its way from a source into its file. Bytes go from the connection's buffer into the file and
//! through the checksum while they are hot, with nothing queued between; each full block is published at once.
//! What has arrived survives a broken body: the next try asks for the next missing byte, and the checksum of the
//! block begun goes on. `worker` decides whether there is a next try.

use crc_fast::{CrcAlgorithm, Digest};
use tokio::sync::Mutex;

use super::queue::{Flow, Queue};
use super::source::{Body, Fault, Remedy, Source};
use crate::base::{BlockIndex, ByteRange, Extent, Layout};
use crate::peer;
use crate::store::{self, File};

/// Most bytes taken from a connection at once: enough that system calls do not count, small enough that the
/// slices of all connections of a thread are still in the processor's cache when they are written and summed.
/// With 8 connections on two processors, recv + pwrite alone moved 2.7 GB/s in pieces of this size and 1.6 GB/s
/// in pieces of 1 MiB (the floor of `cargo xtask bench`).
const SLICE: u64 = 256 << 10;

/// Why a try ended early.
#[derive(Debug)]
pub(super) enum Trouble {
    Source(Fault),
    Write(store::Error),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Source(fault)
    }
}

/// A body that ends before its range does, though its reply promised the whole range.
#[derive(Debug, thiserror::Error)]
#[error("the body ended at byte {at}, {missing} bytes early")]
struct ShortBody {
    at: u64,
    missing: u64,
}

pub(super) struct Transfer<'a> {
    file: &'a File,
    /// Whose turn it is to write to the file. The kernel lets one writer at a time into a file anyway
    /// (`inode_lock` in `ext4_buffered_write_iter`, `xfs_file_buffered_write`, `btrfs_buffered_write`) and
    /// lets the others spin; here the thread serves its other connections meanwhile.
    turn: &'a Mutex<()>,
    queue: &'a Queue,
    layout: Layout,
    /// Blocks that are not published yet.
    left: Extent,
    /// The next byte to come; in the first block of `left`, or at the end.
    position: u64,
    end: u64,
    /// Of the first block of `left`, up to `position`.
    digest: Digest,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(file: &'a File, turn: &'a Mutex<()>, queue: &'a Queue, extent: Extent) -> Self {
        let layout = file.layout();
        let range = layout.range_of_blocks(extent.blocks.clone());
        let digest = Digest::new(CrcAlgorithm::Crc64Xz);
        Self { file, turn, queue, layout, left: extent, position: range.start(), end: range.end(), digest }
    }

    /// Fetches what is left. Ok with `Stop` when the file or the whole load is given up meanwhile.
    pub(super) async fn attempt(&mut self, source: &mut impl Source) -> Result<Flow, Trouble> {
        let mut body = source.get(self.file.object(), self.left_range()).await?;
        self.receive(&mut body).await
    }

    /// Begins the first block that is left again: what came of it is not to be mixed with what another one sends.
    pub(super) fn restart_block(&mut self) {
        self.position = self.layout.range_of(BlockIndex(self.left.blocks.start)).start();
        self.digest.reset();
    }

    /// Takes a body that begins at the next byte.
    pub(super) async fn receive(&mut self, body: &mut impl Body) -> Result<Flow, Trouble> {
        if let Some(crc64) = body.object_crc64() {
            self.file.note_crc64(crc64);
        }
        let body_crc = body.block_crc64();
        while self.position < self.end {
            let wanted = self.end - self.position;
            let max = usize::try_from(wanted.min(SLICE)).unwrap_or(usize::MAX);
            let Some(bytes) = body.next(max).await? else {
                let cause = ShortBody { at: self.position, missing: wanted }.into();
                return Err(Fault { remedy: Remedy::TryAgain, cause }.into());
            };
            {
                let _turn = self.turn.lock().await;
                self.file.write_at(self.position, bytes).map_err(Trouble::Write)?;
            }
            if let Some(promised) = body_crc
                && let Some(found) = self.wrong_block(bytes, promised)
            {
                let cause = peer::BodyError::Corrupt { promised, found }.into();
                return Err(Fault { remedy: Remedy::TryAgain, cause }.into());
            }
            if self.accept(bytes) == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Continue)
    }

    /// The checksum of the block that these bytes complete, if it is not the promised one.
    fn wrong_block(&self, bytes: &[u8], promised: u64) -> Option<u64> {
        let end = self.layout.range_of(BlockIndex(self.left.blocks.start)).end();
        if self.position + bytes.len() as u64 != end {
            return None;
        }
        let mut digest = self.digest;
        digest.update(bytes);
        Some(digest.finalize()).filter(|found| *found != promised)
    }

    /// Sums what was written, and publishes each block it completes.
    fn accept(&mut self, mut bytes: &[u8]) -> Flow {
        while !bytes.is_empty() {
            let block = BlockIndex(self.left.blocks.start);
            let block_end = self.layout.range_of(block).end();
            let room = usize::try_from(block_end - self.position).unwrap_or(usize::MAX);
            let (here, rest) = bytes.split_at(room.min(bytes.len()));
            self.digest.update(here);
            self.position += here.len() as u64;
            bytes = rest;
            if self.position == block_end {
                self.file.commit(block, self.digest.finalize());
                self.digest.reset();
                self.left.blocks.start += 1;
                if self.queue.block_ready(self.left.file, block) == Flow::Stop {
                    return Flow::Stop;
                }
            }
        }
        Flow::Continue
    }

    /// Blocks that are not published yet.
    pub(super) fn left(&self) -> &Extent {
        &self.left
    }

    /// The next byte to come.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes still to come.
    fn left_range(&self) -> ByteRange {
        ByteRange::new(self.position, self.end)
    }

    /// Bytes still to come of the first block that is not published.
    pub(super) fn stuck_at(&self) -> ByteRange {
        ByteRange::new(self.position, self.layout.range_of(BlockIndex(self.left.blocks.start)).end())
    }
}
