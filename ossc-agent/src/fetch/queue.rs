//! Lanes and waiters behind one lock, and the wake-up of idle connections. Taken once a block and once a
//! request, never while bytes move; `done` calls run after the lock is let go. Every state change of a block and
//! the look at who waits for it happen under the same hold, so no reader is forgotten.
//!
//! Failures end here: a lost extent ends its waiters, a closed file refuses later ones, a closed queue all.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::Done;
use super::failure::{Cause, Failure};
use super::inflight::Waiters;
use super::lanes::Lanes;
use super::progress::{Counts, Progress};
use super::sync::{Lock, Signal};
use crate::base::{BlockIndex, ByteRange, Extent, FileId, Lane};

/// How long planned and background work leaves a file alone after a failure that its retries did not get over:
/// long enough not to hammer, short enough that a load goes on by itself after an outage.
const REST: Duration = Duration::from_secs(30);

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
    closing: bool,
}

pub(super) struct Queue {
    state: Lock<State>,
    signal: Signal,
}

impl Queue {
    /// `full`: files that have all blocks from an earlier run but were not sealed.
    pub(super) fn new(lanes: Lanes, full: VecDeque<FileId>) -> Self {
        let state = State {
            lanes,
            waiters: Waiters::default(),
            full,
            mismatched: Vec::new(),
            lost: BTreeMap::new(),
            counts: Counts::default(),
            closing: false,
        };
        Self { state: Lock::new(state), signal: Signal::default() }
    }

    /// Calls `done` when every block of `range` is there or one is lost; `lane` Demand or Planned fetches it.
    pub(super) fn want(&self, file: FileId, range: ByteRange, lane: Lane, done: Done) {
        let now = self.state.with(|state| {
            let Some(layout) = state.lanes.layout(file) else {
                return Some((done, Err(Failure::new(Cause::UnknownFile(file)))));
            };
            if let Some(failure) = state.lost.get(&file) {
                return Some((done, Err(failure.clone())));
            }
            let blocks = layout.blocks_of(range);
            let missing = state.lanes.unready(file, blocks.clone());
            if missing == 0 {
                return Some((done, Ok(())));
            }
            if state.closing {
                return Some((done, Err(Failure::new(Cause::ShuttingDown))));
            }
            state.waiters.add(file, blocks.clone(), missing, done);
            if lane == Lane::Demand {
                state.lanes.demand(file, blocks);
            } else {
                state.lanes.plan(file, blocks);
            }
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
                state.lanes.plan(file, layout.blocks_of(range));
            }
        });
        self.signal.one();
    }

    pub(super) fn start_background(&self) {
        self.state.with(|state| state.lanes.start_background());
        self.signal.one();
    }

    /// The next work for a connection that moves `reach` bytes in the time an extent should take.
    pub(super) async fn next(&self, reach: u64) -> Work {
        let work = self.signal.until(|| self.take(reach, Instant::now())).await;
        // Whoever finds work wakes the next idle one; the last one woken finds nothing.
        self.signal.one();
        work
    }

    fn take(&self, reach: u64, now: Instant) -> Result<Work, Option<Instant>> {
        self.state.with(|state| {
            if let Some(file) = state.full.pop_front() {
                return Ok(Work::Seal(file));
            }
            if state.closing {
                return Ok(Work::Stop);
            }
            match state.lanes.take(reach, now) {
                Some((extent, lane)) => {
                    state.counts.handed_out(lane);
                    Ok(Work::Fetch(extent, lane))
                }
                None => Err(state.lanes.next_due()),
            }
        })
    }

    /// The store has published a block that was handed out.
    pub(super) fn block_ready(&self, file: FileId, block: BlockIndex) -> Flow {
        let (done, flow) = self.state.with(|state| {
            if state.lanes.block_ready(file, block) {
                state.full.push_back(file);
            }
            if let Some(layout) = state.lanes.layout(file) {
                state.counts.bytes_fetched += layout.range_of(block).len();
            }
            let stop = state.closing || state.lost.contains_key(&file);
            (state.waiters.block_ready(file, block), if stop { Flow::Stop } else { Flow::Continue })
        });
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

    /// Blocks that were handed out are lost for those who wait for them now. A later demand tries again.
    pub(super) fn extent_lost(&self, lost: &Extent, failure: &Failure) {
        let done = self.state.with(|state| {
            state.counts.failures += 1;
            state.lanes.put_back(lost, Instant::now() + REST);
            let done = state.waiters.blocks_lost(lost.file, &lost.blocks);
            let waiters = &state.waiters;
            state.lanes.retain_demands(lost.file, |blocks| waiters.want(lost.file, blocks));
            done
        });
        finish(done, &Err(failure.clone()));
    }

    /// A file is lost for good, now and for every later demand. False if it was before.
    pub(super) fn file_lost(&self, file: FileId, failure: &Failure) -> bool {
        let (first, done) = self.state.with(|state| {
            state.lanes.close(file);
            let first = !state.lost.contains_key(&file);
            state.lost.entry(file).or_insert_with(|| failure.clone());
            (first, state.waiters.blocks_lost(file, &(0..u32::MAX)))
        });
        finish(done, &Err(failure.clone()));
        first
    }

    /// The bytes of a full file are wrong, and the store has forgotten them: fetches it again, ahead of the
    /// background. False if that has been tried before.
    pub(super) fn refetch(&self, file: FileId) -> bool {
        let first = self.state.with(|state| {
            state.lanes.forget(file);
            if state.mismatched.contains(&file) {
                return false;
            }
            state.mismatched.push(file);
            if let Some(layout) = state.lanes.layout(file) {
                state.lanes.plan(file, 0..layout.block_count());
            }
            true
        });
        self.signal.one();
        first
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

    pub(super) fn progress(&self) -> Progress {
        self.state.with(|state| Progress {
            at: Instant::now(),
            bytes_total: state.lanes.total_bytes(),
            bytes_ready: state.lanes.ready_bytes(),
            counts: state.counts.clone(),
            waiting: state.waiters.count(),
        })
    }
}

/// Calls back, outside the lock.
fn finish(done: Vec<Done>, result: &Result<(), Failure>) {
    for done in done {
        done(result.clone());
    }
}
