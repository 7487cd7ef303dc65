//! One extent on its way from a source into its file. Bytes go from the connection's buffer into the file and
//! through the checksum while they are hot, with nothing queued between; each full block is published at once.
//! What has arrived survives a broken body: the next try asks for the next missing byte, and the checksum of the
//! block begun goes on. `worker` decides whether there is a next try.

use std::pin::pin;
use std::time::{Duration, Instant};

use crc_fast::{CrcAlgorithm, Digest};
use tokio::time::timeout;

use super::limit::{Limit, OriginLimit};
use super::nics::{Nics, Since};
use super::patience::{Bound, Kind, Patience};
use super::queue::{Flow, Queue};
use super::rate::{CRAWL, ENDGAME};
use super::source::{Body, Fault, Remedy, Source};
use super::turns::Turns;
use crate::base::{BlockIndex, ByteRange, Extent, Layout};
use crate::peer;
use crate::store::{self, File};

/// Most bytes taken from a connection at once: enough that system calls do not count and the page cache takes large
/// folios, and so few that they fit into the second-level cache of a processor three times, as the kernel received
/// them, as they are summed, and in the page cache (docs/performance.md has the figures).
const SLICE: u64 = 128 << 10;

/// Requests in a row that are given up because they stand still, before that counts as a failure.
const MOST_GIVEN_UP: u32 = 6;

/// Why a try ended early.
#[derive(Debug)]
pub(super) enum Trouble {
    Source(Fault),
    /// The request stands still while others do not; `silent` if nothing comes through its NIC.
    Still {
        silent: bool,
    },
    /// It is far slower than others through another NIC.
    Crawls,
    /// All that is left of the load is on its way, and this would come sooner through another NIC.
    SlowToEnd {
        nic: usize,
    },
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

/// What a request goes through.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) patience: &'a Patience,
    pub(super) limit: &'a Limit,
    pub(super) origin: &'a OriginLimit,
    pub(super) nics: &'a Nics,
    pub(super) nic: usize,
    /// The source has yet to be connected.
    pub(super) fresh: bool,
}

/// How slow a body may be.
pub(super) struct Pace<'a> {
    way: Way<'a>,
    bound: Bound,
    /// When it was asked for.
    asked: Instant,
    since: Since,
}

impl Way<'_> {
    fn came(&self, bytes: usize) {
        self.nics.came(self.nic, bytes as u64, Instant::now());
    }
}

impl Pace<'_> {
    /// Whether the request is to be left after `moved` bytes, with `left` to come.
    fn check(&self, moved: u64, left: u64, queue: &Queue) -> Result<(), Trouble> {
        let Way { nics, nic, .. } = self.way;
        let took = self.asked.elapsed();
        // The endgame's bounds are the narrower ones.
        if !ENDGAME.is_possible(moved, left, took) {
            return Ok(());
        }
        let Some((best, others)) = nics.best_other(nic, &self.since) else { return Ok(()) };
        if CRAWL.holds(moved, left, took, others) {
            return Err(Trouble::Crawls);
        }
        if ENDGAME.holds(moved, left, took, others) && queue.is_endgame() {
            return Err(Trouble::SlowToEnd { nic: best });
        }
        Ok(())
    }
}

/// The hash of a block on its way, and what it must be.
struct Proof {
    expected: blake3::Hash,
    hasher: Box<blake3::Hasher>,
}

impl Proof {
    fn new(expected: blake3::Hash) -> Self {
        Self { expected, hasher: Box::default() }
    }

    /// Takes in the next bytes; with the last ones, what is wrong with the block.
    fn check(&mut self, bytes: &[u8], are_last: bool) -> Option<peer::BodyError> {
        self.hasher.update(bytes);
        let found = are_last.then(|| self.hasher.finalize()).filter(|found| *found != self.expected)?;
        Some(peer::BodyError::Forged { expected: self.expected, found })
    }
}

pub(super) struct Transfer<'a> {
    file: &'a File,
    turns: &'a Turns,
    queue: &'a Queue,
    layout: Layout,
    /// Blocks that are not published yet.
    left: Extent,
    /// The next byte to come; in the first block of `left`, or at the end.
    position: u64,
    end: u64,
    /// Of the first block of `left`, up to `position`.
    digest: Digest,
    /// How long pieces have waited for their turns.
    waited: Duration,
    /// A peer sends what comes.
    from_peer: bool,
    /// Requests given up since a piece came last, because they stood still.
    given_up: u32,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(file: &'a File, turns: &'a Turns, queue: &'a Queue, extent: Extent) -> Self {
        let layout = file.layout();
        let range = layout.range_of_blocks(extent.blocks.clone());
        let digest = Digest::new(CrcAlgorithm::Crc64Xz);
        Self {
            file,
            turns,
            queue,
            layout,
            left: extent,
            position: range.start(),
            end: range.end(),
            digest,
            waited: Duration::ZERO,
            from_peer: false,
            given_up: 0,
        }
    }

    /// Begins the first block that is left again: what came of it is not to be mixed with what another one sends.
    pub(super) fn restart_block(&mut self) {
        self.position = self.layout.range_of(BlockIndex(self.left.blocks.start)).start();
        self.digest.reset();
    }

    /// Fetches what is left. Ok with `Stop` when the file or the whole load is given up meanwhile.
    pub(super) async fn attempt(&mut self, source: &mut impl Source, way: Way<'_>) -> Result<Flow, Trouble> {
        let Way { patience, nics, nic, fresh, .. } = way;
        let (asked, since) = (Instant::now(), nics.since());
        let bound = patience.bound(self.given_up, fresh);
        let mut body = {
            let mut watch = patience.watch(Kind::Reply, bound);
            let mut reply = pin!(source.get(self.file.object(), self.left_range()));
            loop {
                if let Ok(reply) = timeout(bound.wait, &mut reply).await {
                    let body = reply?;
                    watch.end();
                    break body;
                }
                let silent = nics.is_silent(nic, asked);
                if watch.is_still(false, silent) {
                    return Err(Trouble::Still { silent });
                }
            }
        };
        way.came(0);
        if !fresh {
            patience.answered(asked.elapsed());
        }
        let pace = Pace { way, bound: patience.bound(self.given_up, true), asked, since };
        self.receive(&mut body, way.limit, Some(pace)).await
    }

    /// Takes a body that begins at the next byte. With no `pace` the body knows itself how long it may stand still.
    pub(super) async fn receive(
        &mut self,
        body: &mut impl Body,
        limit: &Limit,
        pace: Option<Pace<'_>>,
    ) -> Result<Flow, Trouble> {
        let from = self.position;
        if let Some(crc64) = body.object_crc64() {
            self.file.note_crc64(crc64);
        }
        let body_crc = body.block_crc64();
        // Peers alone tell it.
        self.from_peer = body_crc.is_some();
        let mut proof = body.block_proof().map(Proof::new);
        while self.position < self.end {
            let wanted = self.end - self.position;
            // Pieces end where the next one is aligned in the file, so that the page cache can use large folios.
            let max = usize::try_from(wanted.min(SLICE - self.position % SLICE)).unwrap_or(usize::MAX);
            limit.take(max as u64).await;
            if let Some(pace) = &pace {
                // From OSS.
                pace.way.origin.take(max as u64).await;
            }
            match &pace {
                Some(pace) => self.fill(body, max, from, pace).await?,
                None => body.fill(max).await?,
            }
            let Some(bytes) = body.next(max).await? else {
                let cause = ShortBody { at: self.position, missing: wanted }.into();
                return Err(Fault { remedy: Remedy::TryAgain, cause }.into());
            };
            {
                let _turn = self.turns.of(self.left.file, &mut self.waited).await;
                self.file.write_at(self.position, bytes).map_err(Trouble::Write)?;
            }
            let wrong =
                match body_crc.and_then(|promised| Some((promised, self.wrong_block(bytes, promised)?))) {
                    Some((promised, found)) => Some(peer::BodyError::Corrupt { promised, found }),
                    None => proof.as_mut().and_then(|proof| proof.check(bytes, self.ends_block(bytes))),
                };
            if let Some(wrong) = wrong {
                return Err(Fault { remedy: Remedy::TryAgain, cause: wrong.into() }.into());
            }
            if self.accept(bytes) == Flow::Stop {
                return Ok(Flow::Stop);
            }
            let Some(pace) = &pace else { continue };
            self.given_up = 0;
            if self.position < self.end {
                pace.check(self.position - from, self.end - self.position, self.queue)?;
            }
        }
        Ok(Flow::Continue)
    }

    /// Waits for the next bytes of a body that began at `from`, as long as is reasonable.
    async fn fill(
        &self,
        body: &mut impl Body,
        max: usize,
        from: u64,
        pace: &Pace<'_>,
    ) -> Result<(), Trouble> {
        let Way { patience, nics, nic, .. } = pace.way;
        let (mut watch, mut come, mut since) = (patience.watch(Kind::Piece, pace.bound), 0, Instant::now());
        loop {
            if let Ok(filled) = timeout(pace.bound.wait, body.fill(max)).await {
                filled?;
                pace.way.came(max);
                watch.end();
                return Ok(());
            }
            let before = std::mem::replace(&mut come, body.come());
            if come > before {
                pace.way.came(0);
                since = Instant::now();
            }
            let silent = nics.is_silent(nic, since);
            if watch.is_still(come > before, silent) {
                return Err(Trouble::Still { silent });
            }
            let moved = self.position - from + come as u64;
            pace.check(moved, self.end - from - moved, self.queue)?;
        }
    }

    /// Whether the next bytes complete a block.
    fn ends_block(&self, bytes: &[u8]) -> bool {
        let end = self.layout.range_of(BlockIndex(self.left.blocks.start)).end();
        self.position + bytes.len() as u64 == end
    }

    /// The checksum of the block that these bytes complete, if it is not the promised one.
    fn wrong_block(&self, bytes: &[u8], promised: u64) -> Option<u64> {
        if !self.ends_block(bytes) {
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
                if self.from_peer {
                    self.queue.came_from_peer(self.left.file, block);
                }
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

    /// The request was given up because it stood still. False after so often that this is no slow reply any more.
    pub(super) fn give_up(&mut self) -> bool {
        self.given_up += 1;
        self.given_up < MOST_GIVEN_UP
    }

    /// How long pieces have waited for their turns since this was asked last.
    pub(super) fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
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
