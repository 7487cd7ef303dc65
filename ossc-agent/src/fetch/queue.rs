//! Lanes and waiters behind one lock, and the wake-up of idle connections. Taken once a block and once a
//! request, never while bytes move; `done` calls run after the lock is let go. Every state change of a block and
//! the look at who waits for it happen under the same hold, so no reader is forgotten.
//!
//! Failures end here: a lost extent ends its waiters, a closed file refuses later ones, a closed queue all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::Done;
use super::failure::{Cause, Failure};
use super::inflight::Waiters;
use super::lanes::Lanes;
use super::progress::{Counts, LaneWork, Progress};
use super::sync::{Lock, Signal};
use crate::base::{BlockIndex, ByteRange, Extent, FileId, Lane};
use crate::fetch::view::{BlockState, Provenance};
use crate::peer::{Mode, Peers};

/// How soon one idle connection, for all of them, looks again for what peers may have by then, unless they wake it
/// before.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What a connection does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Work {
    Fetch(Extent, Lane),
    /// Every block is there: check the file and record it as complete.
    Seal(FileId),
    /// Nothing more, ever.
    Stop,
}

/// Whether whoever fetches an extent should go on with its next block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    Stop,
}

struct State {
    lanes: Lanes,
    waiters: Waiters,
    /// Full files that nobody seals yet.
    full: VecDeque<FileId>,
    /// Files whose bytes were wrong once.
    mismatched: Vec<FileId>,
    /// Files lost for good, with the reason.
    lost: BTreeMap<FileId, Failure>,
    counts: Counts,
    /// By file.
    provenance: Vec<Provenance>,
    /// An idle connection looks again by itself: the watchman, who wakes the others when there is work.
    is_watched: bool,
    closing: bool,
}

/// A connection's part in that. Dropped with the connection, it lets another one watch.
struct Watchman<'a> {
    queue: &'a Queue,
    is_on: bool,
}

pub(super) struct Queue {
    state: Lock<State>,
    signal: Signal,
    peers: Option<Peers>,
}

impl Queue {
    /// `full`: files that have all blocks from an earlier run but were not sealed.
    pub(super) fn new(lanes: Lanes, full: VecDeque<FileId>, peers: Option<Peers>) -> Self {
        let state = State {
            lanes,
            waiters: Waiters::default(),
            full,
            mismatched: Vec::new(),
            lost: BTreeMap::new(),
            counts: Counts::default(),
            provenance: Vec::new(),
            is_watched: false,
            closing: false,
        };
        Self { state: Lock::new(state), signal: Signal::default(), peers }
    }

    /// Remembers where the blocks came from that are there already, by file.
    pub(super) fn with_provenance(self, provenance: Vec<Provenance>) -> Self {
        self.state.with(|state| state.provenance = provenance);
        self
    }

    /// Calls `done` when every block of `range` is there or one is lost; `lane` Demand or Planned fetches it.
    /// `is_there` asks the store, which may have forgotten a full file meanwhile (wrong bytes, or a disk that
    /// lost some); the lanes then learn it here, before a reader is let in.
    pub(super) fn want(
        &self,
        file: FileId,
        range: ByteRange,
        lane: Lane,
        is_there: impl Fn() -> bool,
        done: Done,
    ) {
        let now = self.state.with(|state| {
            let Some(layout) = state.lanes.layout(file) else {
                return Some((done, Err(Failure::new(Cause::UnknownFile(file)))));
            };
            if let Some(failure) = state.lost.get(&file) {
                return Some((done, Err(failure.clone())));
            }
            let blocks = layout.blocks_of(range);
            let mut missing = state.lanes.unready(file, blocks.clone());
            if missing == 0 {
                if is_there() {
                    return Some((done, Ok(())));
                }
                state.lanes.forget(file);
                missing = state.lanes.unready(file, blocks.clone());
            }
            if state.closing {
                return Some((done, Err(Failure::new(Cause::ShuttingDown))));
            }
            state.lanes.rouse(file);
            state.waiters.add(file, blocks.clone(), missing, lane, done);
            state.lanes.want(file, blocks, lane);
            None
        });
        match now {
            Some((done, result)) => done(result),
            None => self.signal.one(),
        }
    }

    /// Appends to the planned lane.
    pub(super) fn plan(&self, file: FileId, range: ByteRange) {
        self.state.with(|state| {
            if let Some(layout) = state.lanes.layout(file) {
                state.lanes.want(file, layout.blocks_of(range), Lane::Planned);
            }
        });
        self.signal.one();
    }

    /// Puts a file at the head of what is planned; the bytes of it that are not ready.
    pub(super) fn plan_first(&self, file: FileId) -> u64 {
        let bytes = self.state.with(|state| {
            let Some(layout) = state.lanes.layout(file) else { return 0 };
            state.lanes.plan_first(file, 0..layout.block_count());
            state.lanes.unready_bytes(file)
        });
        self.signal.one();
        bytes
    }

    /// Replaces the head of the planned lane.
    pub(super) fn plan_ahead(&self, ranges: &[(FileId, ByteRange)]) {
        self.state.with(|state| {
            let blocks = ranges.iter().filter_map(|&(file, range)| {
                state.lanes.layout(file).map(|layout| (file, layout.blocks_of(range)))
            });
            let blocks: Vec<_> = blocks.collect();
            state.lanes.plan_ahead(blocks);
        });
        self.signal.one();
    }

    pub(super) fn start_background(&self) {
        self.state.with(|state| state.lanes.start_background());
        self.signal.one();
    }

    /// Every byte is there or on its way: what is on its way is all that the load still waits for.
    pub(super) fn is_endgame(&self) -> bool {
        self.state.with(|state| !state.lanes.has_missing())
    }

    /// Lets an idle connection look again. Called when peers have news.
    pub(super) fn wake(&self) {
        self.signal.one();
    }

    /// A connection stops looking for work for a while: another one looks in its place.
    pub(super) fn pass_on(&self) {
        self.signal.one();
    }

    /// The next work for a connection that moves `reach` bytes in the time an extent should take; from the
    /// background, that of this `slot`.
    pub(super) async fn next(&self, reach: u64, slot: impl Fn() -> usize) -> Work {
        let mut watchman = Watchman { queue: self, is_on: false };
        let work = self.signal.until(|| self.take(reach, slot(), Instant::now(), &mut watchman.is_on)).await;
        // Whoever finds work wakes the next idle one; the last one woken finds nothing.
        self.signal.one();
        work
    }

    fn take(
        &self,
        reach: u64,
        slot: usize,
        now: Instant,
        is_watchman: &mut bool,
    ) -> Result<Work, Option<Instant>> {
        self.state.with(|state| {
            if std::mem::take(is_watchman) {
                state.is_watched = false;
            }
            if let Some(file) = state.full.pop_front() {
                return Ok(Work::Seal(file));
            }
            if state.closing {
                return Ok(Work::Stop);
            }
            let mode = self.peers.as_ref().map(|peers| (peers, peers.mode()));
            let taken = match mode {
                Some((peers, Mode::Sharing)) => state.lanes.take_shared(now, peers),
                Some((_, Mode::Settling)) => state.lanes.take_demand(reach),
                Some((_, Mode::Alone)) | None => state.lanes.take(reach, slot, now),
            };
            match taken {
                Some((extent, lane)) => {
                    state.counts.handed_out(lane, extent.blocks.end - extent.blocks.start);
                    Ok(Work::Fetch(extent, lane))
                }
                None if mode.is_some() => {
                    *is_watchman =
                        state.lanes.has_missing() && !std::mem::replace(&mut state.is_watched, true);
                    Err(is_watchman.then(|| now + LOOK_AGAIN))
                }
                None => Err(state.lanes.next_due()),
            }
        })
    }

    /// The block that is about to be ready was sent by a peer.
    pub(super) fn came_from_peer(&self, file: FileId, block: BlockIndex) {
        self.state.with(|state| {
            if let Some(layout) = state.lanes.layout(file) {
                state.counts.bytes_from_peers += layout.range_of(block).len();
            }
            if let Some(provenance) = state.provenance.get_mut(file.index()) {
                provenance.peer_sent(block);
            }
        });
    }

    /// The store has published a block that was handed out.
    pub(super) fn block_ready(&self, file: FileId, block: BlockIndex) -> Flow {
        let (done, flow, is_full) = self.state.with(|state| {
            let is_full = state.lanes.block_ready(file, block);
            if is_full {
                state.full.push_back(file);
            }
            if let Some(layout) = state.lanes.layout(file) {
                state.counts.bytes_fetched += layout.range_of(block).len();
            }
            let stop = state.closing || state.lost.contains_key(&file);
            let flow = if stop { Flow::Stop } else { Flow::Continue };
            (state.waiters.block_ready(file, block), flow, is_full)
        });
        if is_full {
            // Who brought the last block may not be let back to the queue (`crowd`).
            self.signal.one();
        }
        finish(done, &Ok(()));
        flow
    }

    /// A request is sent again.
    pub(super) fn retried(&self, slow_down: bool) {
        self.state.with(|state| {
            state.counts.requests += 1;
            state.counts.retries += 1;
            state.counts.slow_downs += u64::from(slow_down);
        });
    }

    /// An extent got stuck at its first block: that one is lost to those who wait for it now, a later demand
    /// tries again. The blocks behind it go back to the lanes; who waits for one of them has a try of his own.
    /// Planned and background work leaves the file alone for `rest`.
    pub(super) fn extent_lost(&self, left: &Extent, failure: &Failure, rest: Duration) -> bool {
        let file = left.file;
        let (news, done) = self.state.with(|state| {
            state.counts.failures += 1;
            let news = state.lanes.put_back(left, Instant::now() + rest);
            let done = state.waiters.block_lost(file, BlockIndex(left.blocks.start));
            state.lanes.drop_demands(file);
            for (blocks, lane) in state.waiters.of_file(file) {
                state.lanes.want(file, blocks, lane);
            }
            (news, done)
        });
        self.signal.one();
        finish(done, &Err(failure.clone()));
        news
    }

    /// A file is lost for good, now and for every later demand. False if it was before.
    pub(super) fn file_lost(&self, file: FileId, failure: &Failure) -> bool {
        let (first, done) = self.state.with(|state| {
            state.lanes.close(file);
            let first = !state.lost.contains_key(&file);
            state.lost.entry(file).or_insert_with(|| failure.clone());
            (first, state.waiters.file_lost(file))
        });
        finish(done, &Err(failure.clone()));
        first
    }

    /// The bytes of a full file are wrong. True the first time.
    pub(super) fn mismatched(&self, file: FileId) -> bool {
        self.state.with(|state| {
            let first = !state.mismatched.contains(&file);
            if first {
                state.mismatched.push(file);
            }
            first
        })
    }

    /// The store has forgotten some blocks: fetches them again, ahead of the background.
    pub(super) fn forgotten_some(&self, file: FileId, blocks: &[BlockIndex]) {
        self.state.with(|state| {
            state.lanes.forget_some(file, blocks);
            for block in blocks {
                if let Some(provenance) = state.provenance.get_mut(file.index()) {
                    provenance.forget(*block);
                }
                state.lanes.want(file, block.0..block.0 + 1, Lane::Planned);
            }
        });
        self.signal.one();
    }

    /// A full file was not sealed and is to be tried again.
    pub(super) fn full_again(&self, file: FileId) {
        self.state.with(|state| state.full.push_back(file));
        self.signal.one();
    }

    /// The store has forgotten a full file: fetches it again, ahead of the background, unless it is lost.
    pub(super) fn forgotten(&self, file: FileId) {
        self.state.with(|state| {
            state.lanes.forget(file);
            if let Some(provenance) = state.provenance.get_mut(file.index()) {
                provenance.forget_all();
            }
            if let Some(layout) = state.lanes.layout(file) {
                state.lanes.want(file, 0..layout.block_count(), Lane::Planned);
            }
        });
        self.signal.one();
    }

    /// The store is about to empty a complete file: whoever wants it from now on waits for [`Self::end_emptying`].
    pub(super) fn begin_emptying(&self, file: FileId) {
        self.state.with(|state| state.lanes.begin_emptying(file));
    }

    /// The store has emptied it, or has not.
    pub(super) fn end_emptying(&self, file: FileId, are_gone: bool) {
        let done = self.state.with(|state| {
            state.lanes.end_emptying(file, are_gone);
            if !are_gone {
                return state.waiters.file_lost(file);
            }
            if let Some(provenance) = state.provenance.get_mut(file.index()) {
                provenance.forget_all();
            }
            for (blocks, lane) in state.waiters.of_file(file) {
                state.lanes.rouse(file);
                state.lanes.want(file, blocks, lane);
            }
            Vec::new()
        });
        self.signal.one();
        finish(done, &Ok(()));
    }

    /// Files that were emptied, and that nobody has asked for since.
    pub(super) fn dormant(&self) -> BTreeSet<FileId> {
        self.state.with(|state| state.lanes.dormant())
    }

    /// Hands out nothing more but the sealing of full files.
    pub(super) fn close(&self) {
        self.state.with(|state| state.closing = true);
        self.signal.all();
    }

    /// Ends all who still wait, after `close`.
    pub(super) fn end_waiters(&self) {
        let done = self.state.with(|state| state.waiters.take_all());
        finish(done, &Err(Failure::new(Cause::ShuttingDown)));
    }

    /// The blocks of a file, for whoever looks.
    pub(super) fn blocks(&self, file: FileId) -> Vec<BlockState> {
        self.state.with(|state| match state.provenance.get(file.index()) {
            Some(provenance) => state.lanes.blocks(file, |block| provenance.of_ready(block)),
            None => Vec::new(),
        })
    }

    /// Whether a file is lost for good.
    pub(super) fn is_lost(&self, file: FileId) -> bool {
        self.state.with(|state| state.lost.contains_key(&file))
    }

    pub(super) fn progress(&self) -> Progress {
        self.state.with(|state| Progress {
            at: Instant::now(),
            bytes_total: state.lanes.total_bytes(),
            bytes_ready: state.lanes.ready_bytes(),
            counts: state.counts.clone(),
            readers: state.waiters.readers(),
        })
    }

    pub(super) fn lanes(&self) -> Vec<LaneWork> {
        self.state.with(|state| state.counts.lanes(state.lanes.queued())).to_vec()
    }
}

impl Drop for Watchman<'_> {
    fn drop(&mut self) {
        if self.is_on {
            self.queue.state.with(|state| state.is_watched = false);
            self.queue.signal.one();
        }
    }
}

/// Calls back, outside the lock.
fn finish(done: Vec<Done>, result: &Result<(), Failure>) {
    for done in done {
        done(result.clone());
    }
}
