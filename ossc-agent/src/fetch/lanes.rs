//! What to fetch next: the state of every block, and the three lanes of wanted work. Pure: `queue` drives it
//! under its lock and passes the time in.
//!
//! - Demand: ranges that held readers wait for, in two lines. Short ones (a read, a page) go first, in order of
//!   arrival; long ones (a mapping, a whole-tensor read) are served after them from their start, one after the
//!   other, so that a mapping means "this file next" and yet never delays a small read. The long line cannot
//!   starve: every block is fetched once, so what can overtake it is finite.
//! - Planned: ranges in the order they were given.
//! - Background: all the rest, files in order, the whole bandwidth on one file; the next one begins when the
//!   one before has nothing left to hand out.
//!
//! A block is handed out once, whoever wants it; a failed one becomes missing again, and its file rests: only a
//! reader's demand fetches from a resting file. Who waits for a block is `inflight`'s business.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Instant;

use crate::base::{BlockIndex, Extent, FileId, Lane, Layout};

/// Longest demand that counts as short, in bytes. Reads of loaders are 4 KiB to 16 MiB, sometimes one call a
/// tensor (hundreds of MiB); mappings are whole files.
const SHORT_DEMAND: u64 = 32 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Missing,
    InFlight,
    Ready,
}

/// Adjacent blocks somebody asked for and that have not been looked at yet.
#[derive(Debug)]
struct Wanted {
    file: FileId,
    blocks: Range<u32>,
}

#[derive(Debug)]
struct FileWork {
    layout: Layout,
    states: Vec<State>,
    /// Blocks in state `Missing`.
    missing: u32,
    /// Blocks in state `Ready`.
    ready: u32,
    /// No block before this one is missing.
    first_missing: u32,
    /// After a failure: only demands are served before this time.
    rests_until: Option<Instant>,
    /// Lost for good: nothing is handed out any more.
    closed: bool,
}

impl FileWork {
    /// Hands out the first run of missing blocks `within`, at most `max` of them.
    fn claim(&mut self, within: Range<u32>, max: u32) -> Option<Range<u32>> {
        let end = within.end.min(self.layout.block_count());
        let states = self.states.get_mut(within.start as usize..end as usize)?;
        let skip = states.iter().position(|state| *state == State::Missing)?;
        let run =
            states[skip..].iter().take(max as usize).take_while(|state| **state == State::Missing).count();
        states[skip..skip + run].fill(State::InFlight);
        let count = |blocks: usize| u32::try_from(blocks).unwrap_or(u32::MAX);
        let start = within.start + count(skip);
        self.missing -= count(run);
        Some(start..start + count(run))
    }

    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }
}

/// The lanes and the blocks. Files are numbered in the order they were added.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Connections that share the work.
    connections: NonZeroU32,
    files: Vec<FileWork>,
    short: VecDeque<Wanted>,
    long: VecDeque<Wanted>,
    planned: VecDeque<Wanted>,
    background: bool,
    /// No file before this one has a missing block.
    background_file: usize,
    /// Missing blocks of all files that are not closed.
    missing: u64,
    ready_bytes: u64,
    total_bytes: u64,
}

impl Lanes {
    pub(super) fn new(connections: NonZeroU32) -> Self {
        Self {
            connections,
            files: Vec::new(),
            short: VecDeque::new(),
            long: VecDeque::new(),
            planned: VecDeque::new(),
            background: false,
            background_file: 0,
            missing: 0,
            ready_bytes: 0,
            total_bytes: 0,
        }
    }

    /// Adds the next file, some of whose blocks may be there from an earlier run.
    pub(super) fn add_file(&mut self, layout: Layout, is_ready: impl Fn(BlockIndex) -> bool) {
        let states: Vec<State> = (0..layout.block_count())
            .map(|block| if is_ready(BlockIndex(block)) { State::Ready } else { State::Missing })
            .collect();
        let mut file = FileWork {
            layout,
            states,
            missing: 0,
            ready: 0,
            first_missing: 0,
            rests_until: None,
            closed: false,
        };
        for (block, state) in (0..).zip(&file.states) {
            match state {
                State::Ready => {
                    file.ready += 1;
                    self.ready_bytes += layout.range_of(BlockIndex(block)).len();
                }
                _ => file.missing += 1,
            }
        }
        self.missing += u64::from(file.missing);
        self.total_bytes += layout.size();
        self.files.push(file);
    }

    /// Readers wait for these blocks.
    pub(super) fn demand(&mut self, file: FileId, blocks: Range<u32>) {
        let Some(work) = self.files.get(file.index()) else { return };
        let short = work.layout.range_of_blocks(blocks.clone()).len() <= SHORT_DEMAND;
        let line = if short { &mut self.short } else { &mut self.long };
        line.push_back(Wanted { file, blocks });
    }

    /// These blocks are expected to be wanted after those planned before.
    pub(super) fn plan(&mut self, file: FileId, blocks: Range<u32>) {
        self.planned.push_back(Wanted { file, blocks });
    }

    /// Lets everything be fetched that nobody asked for.
    pub(super) fn start_background(&mut self) {
        self.background = true;
    }

    /// Hands out the next extent for a connection that moves `reach` bytes in the time an extent should take.
    pub(super) fn take(&mut self, reach: u64, now: Instant) -> Option<(Extent, Lane)> {
        for line in [&mut self.short, &mut self.long] {
            // A reader waits for the last byte of its range, so every connection takes a share of it.
            if let Some(extent) = take_wanted(&mut self.files, line, None, |work, left| {
                reach_in_blocks(reach, work.layout).min(left.div_ceil(self.connections.get()))
            }) {
                self.missing -= u64::from(extent.blocks.end - extent.blocks.start);
                return Some((extent, Lane::Demand));
            }
        }
        // Towards the end extents shrink, so that all connections finish at the same time.
        let share =
            u32::try_from(self.missing / u64::from(self.connections.get())).unwrap_or(u32::MAX).max(1);
        let max = |work: &FileWork| reach_in_blocks(reach, work.layout).min(share);
        let (extent, lane) = take_wanted(&mut self.files, &mut self.planned, Some(now), |work, _| max(work))
            .map(|extent| (extent, Lane::Planned))
            .or_else(|| {
                let extent = self
                    .background
                    .then(|| take_background(&mut self.files, &mut self.background_file, now, max));
                extent.flatten().map(|extent| (extent, Lane::Background))
            })?;
        self.missing -= u64::from(extent.blocks.end - extent.blocks.start);
        Some((extent, lane))
    }

    /// When a resting file may be fetched from again, if one has anything to fetch.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.missing == 0 {
            return None;
        }
        self.files
            .iter()
            .filter(|file| file.missing > 0 && !file.closed)
            .filter_map(|file| file.rests_until)
            .min()
    }

    /// A block that was handed out is there. True if it was the last one of its file.
    pub(super) fn block_ready(&mut self, file: FileId, block: BlockIndex) -> bool {
        let Some(work) = self.files.get_mut(file.index()) else { return false };
        let Some(state @ State::InFlight) = work.states.get_mut(block.0 as usize) else { return false };
        *state = State::Ready;
        work.ready += 1;
        work.rests_until = None;
        self.ready_bytes += work.layout.range_of(block).len();
        work.ready == work.layout.block_count()
    }

    /// Blocks that were handed out could not be had: they are missing again, and their file rests.
    pub(super) fn put_back(&mut self, extent: &Extent, rests_until: Instant) {
        let Some(work) = self.files.get_mut(extent.file.index()) else { return };
        work.rests_until = Some(rests_until);
        for block in extent.blocks.clone() {
            if let Some(state @ State::InFlight) = work.states.get_mut(block as usize) {
                *state = State::Missing;
                work.missing += 1;
                work.first_missing = work.first_missing.min(block);
                if !work.closed {
                    self.missing += 1;
                }
            }
        }
        self.background_file = self.background_file.min(extent.file.index());
    }

    /// The bytes of a full file turned out wrong: all of its blocks are missing again.
    pub(super) fn forget(&mut self, file: FileId) {
        let Some(work) = self.files.get_mut(file.index()) else { return };
        for (block, state) in (0..).zip(&mut work.states) {
            if *state == State::Ready {
                *state = State::Missing;
                work.ready -= 1;
                work.missing += 1;
                self.ready_bytes -= work.layout.range_of(BlockIndex(block)).len();
                if !work.closed {
                    self.missing += 1;
                }
            }
        }
        work.first_missing = 0;
        self.background_file = self.background_file.min(file.index());
    }

    /// The file is lost for good.
    pub(super) fn close(&mut self, file: FileId) {
        let Some(work) = self.files.get_mut(file.index()) else { return };
        if !work.closed {
            work.closed = true;
            self.missing -= u64::from(work.missing);
        }
        self.retain_demands(file, |_| false);
    }

    /// Drops the demands on `file` that nobody waits for any more.
    pub(super) fn retain_demands(&mut self, file: FileId, mut is_wanted: impl FnMut(&Range<u32>) -> bool) {
        for line in [&mut self.short, &mut self.long] {
            line.retain(|wanted| wanted.file != file || is_wanted(&wanted.blocks));
        }
    }

    /// How many of these blocks are not ready.
    pub(super) fn unready(&self, file: FileId, blocks: Range<u32>) -> u32 {
        let states = self.files.get(file.index()).and_then(|work| work.states.get(as_indices(&blocks)));
        let unready =
            states.map_or(0, |states| states.iter().filter(|state| **state != State::Ready).count());
        u32::try_from(unready).unwrap_or(u32::MAX)
    }

    /// How the file divides into blocks.
    pub(super) fn layout(&self, file: FileId) -> Option<Layout> {
        self.files.get(file.index()).map(|work| work.layout)
    }

    /// Bytes of ready blocks.
    pub(super) fn ready_bytes(&self) -> u64 {
        self.ready_bytes
    }

    /// Bytes of all files.
    pub(super) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }
}

fn as_indices(blocks: &Range<u32>) -> Range<usize> {
    blocks.start as usize..blocks.end as usize
}

/// Whole blocks in `reach` bytes, at least one.
fn reach_in_blocks(reach: u64, layout: Layout) -> u32 {
    u32::try_from(reach / layout.block_size().bytes()).unwrap_or(u32::MAX).max(1)
}

/// The next extent of a line. `now` is given where resting files are to be left out. `max` is told how many
/// blocks are left of the entry.
fn take_wanted(
    files: &mut [FileWork],
    line: &mut VecDeque<Wanted>,
    now: Option<Instant>,
    max: impl Fn(&FileWork, u32) -> u32,
) -> Option<Extent> {
    let mut at = 0;
    while let Some(wanted) = line.get_mut(at) {
        let work = files.get_mut(wanted.file.index()).filter(|work| !work.closed);
        if let Some(work) = work {
            if now.is_some_and(|now| work.rests(now)) {
                at += 1;
                continue;
            }
            let left = wanted.blocks.end.saturating_sub(wanted.blocks.start);
            let max = max(work, left);
            if let Some(blocks) = work.claim(wanted.blocks.clone(), max) {
                wanted.blocks.start = blocks.end;
                return Some(Extent { file: wanted.file, blocks });
            }
        }
        line.remove(at);
    }
    None
}

/// The next extent of the first file that has one to give.
fn take_background(
    files: &mut [FileWork],
    first: &mut usize,
    now: Instant,
    max: impl Fn(&FileWork) -> u32,
) -> Option<Extent> {
    let has_work = |work: &FileWork| work.missing > 0 && !work.closed;
    while files.get(*first).is_some_and(|work| !has_work(work)) {
        *first += 1;
    }
    let (at, work) =
        files.iter_mut().enumerate().skip(*first).find(|(_, work)| has_work(work) && !work.rests(now))?;
    let max = max(work);
    let blocks = work.claim(work.first_missing..work.layout.block_count(), max)?;
    work.first_missing = blocks.end;
    Some(Extent { file: FileId(u32::try_from(at).ok()?), blocks })
}

#[cfg(test)]
mod tests;
