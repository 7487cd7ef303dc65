//! What to fetch next: the state of every block, and the three lanes of wanted work. Pure: `queue` drives it
//! under its lock and passes the time in.
//!
//! - Demand: ranges that held readers wait for, in two lines. Short ones (a read, a page) go first, in order of
//!   arrival; long ones (a mapping, a whole-tensor read) are served after them from their start, one after the
//!   other, so that a mapping means "this file next" and yet never delays a small read. The long line cannot
//!   starve: every block is fetched once, so what can overtake it is finite.
//! - Planned: what readers are about to want, as the order last said it, then ranges in the order they were given.
//! - Background: all the rest, files in order, the whole bandwidth on one file, or on as few as `turns` says;
//!   the next one begins when the one before has nothing left to hand out.
//!
//! A block is handed out once, whoever wants it; a failed one becomes missing again, and its file rests: only a
//! reader's demand fetches from a resting file. Who waits for a block is `inflight`'s business.

mod file_work;

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Instant;

use self::file_work::FileWork;
use super::view::BlockState;
use crate::base::{BlockIndex, Extent, FileId, Lane, Layout};

/// Longest demand that counts as short, in bytes. Reads of loaders are 4 KiB to 16 MiB, sometimes one call a
/// tensor (hundreds of MiB); mappings are whole files.
const SHORT_DEMAND: u64 = 32 << 20;

/// Most demanded blocks that places are looked for at one time: when no place is free for these, none is.
const MOST_CLAIMED: usize = 64;

/// Adjacent blocks somebody asked for and that have not been looked at yet.
#[derive(Debug)]
struct Wanted {
    file: FileId,
    blocks: Range<u32>,
}

/// The lanes and the blocks. Files are numbered in the order they were added.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Connections that share the work.
    connections: NonZeroU32,
    files: Vec<FileWork>,
    short: VecDeque<Wanted>,
    long: VecDeque<Wanted>,
    ahead: VecDeque<Wanted>,
    planned: VecDeque<Wanted>,
    background: bool,
    /// The file that each slot of the background fills.
    slots: Vec<usize>,
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
            ahead: VecDeque::new(),
            planned: VecDeque::new(),
            background: false,
            slots: Vec::new(),
            background_file: 0,
            missing: 0,
            ready_bytes: 0,
            total_bytes: 0,
        }
    }

    /// Adds the next file, some of whose blocks may be there from an earlier run.
    pub(super) fn add_file(&mut self, layout: Layout, is_ready: impl Fn(BlockIndex) -> bool) {
        let file = FileWork::new(layout, is_ready);
        self.missing += u64::from(file.missing());
        self.ready_bytes += file.ready_bytes();
        self.total_bytes += layout.size();
        self.files.push(file);
    }

    /// Somebody wants these blocks: a held reader (Demand), or the order (Planned, after what was planned
    /// before). The background needs no asking.
    pub(super) fn want(&mut self, file: FileId, blocks: Range<u32>, lane: Lane) {
        let Some(work) = self.files.get(file.index()) else { return };
        let line = match lane {
            Lane::Demand if work.layout().range_of_blocks(blocks.clone()).len() <= SHORT_DEMAND => {
                &mut self.short
            }
            Lane::Demand => &mut self.long,
            Lane::Planned => &mut self.planned,
            Lane::Background => return,
        };
        line.push_back(Wanted { file, blocks });
    }

    /// Somebody wants these blocks before all else that is planned, but for what readers are about to want.
    pub(super) fn plan_first(&mut self, file: FileId, blocks: Range<u32>) {
        self.rouse(file);
        self.planned.push_front(Wanted { file, blocks });
    }

    /// What comes first in the planned lane, in place of what this was told before.
    pub(super) fn plan_ahead(&mut self, ranges: impl IntoIterator<Item = (FileId, Range<u32>)>) {
        self.ahead = ranges.into_iter().map(|(file, blocks)| Wanted { file, blocks }).collect();
    }

    /// Lets everything be fetched that nobody asked for.
    pub(super) fn start_background(&mut self) {
        self.background = true;
    }

    /// Hands out the next extent for a connection that moves `reach` bytes in the time an extent should take; if
    /// it comes from the background, then from the file that this `slot` fills, one of few, each of which fills
    /// another file while there are enough.
    pub(super) fn take(&mut self, reach: u64, slot: usize, now: Instant) -> Option<(Extent, Lane)> {
        if let Some(demand) = self.take_demand(reach) {
            return Some(demand);
        }
        // Towards the end extents shrink, so that all connections finish at the same time.
        let share =
            u32::try_from(self.missing / u64::from(self.connections.get())).unwrap_or(u32::MAX).max(1);
        let max = |work: &FileWork| reach_in_blocks(reach, work.layout()).min(share);
        let planned = [&mut self.ahead, &mut self.planned]
            .into_iter()
            .find_map(|line| take_wanted(&mut self.files, line, Some(now), |work, _| max(work)));
        let (extent, lane) = match planned {
            Some(extent) => (extent, Lane::Planned),
            None => {
                let at = self.background.then(|| self.file_of_slot(slot, now)).flatten()?;
                let work = self.files.get_mut(at)?;
                let blocks = work.claim_first(max(work))?;
                (Extent { file: FileId(u32::try_from(at).ok()?), blocks }, Lane::Background)
            }
        };
        self.missing -= u64::from(extent.blocks.end - extent.blocks.start);
        Some((extent, lane))
    }

    /// The file that a slot of the background goes on with: the one it has begun, else the first that no other slot
    /// has begun, else the one with the most to do.
    fn file_of_slot(&mut self, slot: usize, now: Instant) -> Option<usize> {
        while self.files.get(self.background_file).is_some_and(|work| work.missing() == 0) {
            self.background_file += 1;
        }
        let can_give =
            |at: &usize| self.files.get(*at).is_some_and(|work| work.missing() > 0 && !work.rests(now));
        if let Some(at) = self.slots.get(slot).copied().filter(can_give) {
            return Some(at);
        }
        let able = || (self.background_file..self.files.len()).filter(can_give);
        let missing = |at: &usize| self.files.get(*at).map_or(0, FileWork::missing);
        let free = able().find(|at| !self.slots.contains(at));
        let at = free.or_else(|| able().max_by_key(missing))?;
        if self.slots.len() <= slot {
            // What no file is numbered.
            self.slots.resize(slot + 1, usize::MAX);
        }
        if let Some(place) = self.slots.get_mut(slot) {
            *place = at;
        }
        Some(at)
    }

    /// Hands out the next extent that a reader waits for.
    pub(super) fn take_demand(&mut self, reach: u64) -> Option<(Extent, Lane)> {
        for line in [&mut self.short, &mut self.long] {
            // A reader waits for the last byte of its range, so every connection takes a share of it.
            if let Some(extent) = take_wanted(&mut self.files, line, None, |work, left| {
                reach_in_blocks(reach, work.layout()).min(left.div_ceil(self.connections.get()))
            }) {
                self.missing -= u64::from(extent.blocks.end - extent.blocks.start);
                return Some((extent, Lane::Demand));
            }
        }
        None
    }

    /// Hands out the next block while blocks are shared with peers, one at a time: what a reader waits for if
    /// `claim` finds a place for it, else what `choose` takes of what is wanted, in order.
    pub(super) fn take_shared(&mut self, now: Instant, share: &dyn Share) -> Option<(Extent, Lane)> {
        for line in [&mut self.short, &mut self.long] {
            line.retain(|wanted| missing_of(&self.files, wanted).next().is_some());
        }
        let claimed = {
            let demanded = [&self.short, &self.long].into_iter().flatten();
            let mut blocks = demanded.flat_map(|wanted| missing_of(&self.files, wanted)).take(MOST_CLAIMED);
            blocks.find(|at| share.claim(at.0, at.1))
        };
        let (at, lane) = match claimed {
            Some(at) => (at, Lane::Demand),
            None => (self.choose_planned(now, share)?, Lane::Planned),
        };
        let (file, block) = at;
        let blocks = self.files.get_mut(file.index())?.claim(block.0..block.0 + 1, 1)?;
        self.missing -= 1;
        Some((Extent { file, blocks }, lane))
    }

    fn choose_planned(&mut self, now: Instant, share: &dyn Share) -> Option<(FileId, BlockIndex)> {
        for line in [&mut self.ahead, &mut self.planned] {
            line.retain(|wanted| missing_of(&self.files, wanted).next().is_some());
        }
        while self.background && self.files.get(self.background_file).is_some_and(|work| work.missing() == 0)
        {
            self.background_file += 1;
        }
        let first = if self.background { self.background_file } else { self.files.len() };
        let all = (0u32..).zip(&self.files).skip(first).map(|(number, work)| Wanted {
            file: FileId(number),
            blocks: work.first_missing()..work.layout().block_count(),
        });
        let planned = [&self.ahead, &self.planned].into_iter().flatten();
        let planned = planned.map(|wanted| Wanted { file: wanted.file, blocks: wanted.blocks.clone() });
        let rests = |file: FileId| self.files.get(file.index()).is_none_or(|work| work.rests(now));
        let wanted = planned.chain(all).filter(|wanted| !rests(wanted.file));
        let mut blocks = wanted.flat_map(|wanted| missing_of(&self.files, &wanted));
        share.choose(&mut blocks)
    }

    /// When a resting file may be fetched from again, if one has anything to fetch.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let resting =
            || self.files.iter().filter(|file| file.missing() > 0).filter_map(FileWork::rests_until);
        (self.missing > 0).then(|| resting().min()).flatten()
    }

    /// A block that was handed out is there. True if it was the last one of its file.
    pub(super) fn block_ready(&mut self, file: FileId, block: BlockIndex) -> bool {
        self.change(file, |work| work.block_ready(block)).unwrap_or(false)
    }

    /// Blocks that were handed out could not be had: they are missing again, and their file rests. True if
    /// nothing was known to be wrong with the file before.
    pub(super) fn put_back(&mut self, extent: &Extent, rests_until: Instant) -> bool {
        let news = self.change(extent.file, |work| work.put_back(extent.blocks.clone(), rests_until));
        self.background_file = self.background_file.min(extent.file.index());
        news.unwrap_or(false)
    }

    /// The bytes of a full file are gone or turned out wrong: all of its blocks are missing again.
    pub(super) fn forget(&mut self, file: FileId) {
        self.change(file, FileWork::forget);
        self.background_file = self.background_file.min(file.index());
    }

    /// Some blocks of a full file are wrong: they are missing again.
    pub(super) fn forget_some(&mut self, file: FileId, blocks: &[BlockIndex]) {
        self.change(file, |work| blocks.iter().for_each(|block| work.forget_one(*block)));
        self.background_file = self.background_file.min(file.index());
    }

    /// The bytes of a full file are about to go: all of its blocks are missing, and none is handed out.
    pub(super) fn begin_emptying(&mut self, file: FileId) {
        self.change(file, FileWork::begin_emptying);
    }

    /// They have gone (the file rests until it is asked for), or have not.
    pub(super) fn end_emptying(&mut self, file: FileId, are_gone: bool) {
        self.change(file, if are_gone { FileWork::emptied } else { FileWork::kept });
    }

    /// Somebody asks for a file that may rest since it was emptied.
    pub(super) fn rouse(&mut self, file: FileId) {
        self.change(file, FileWork::rouse);
        self.background_file = self.background_file.min(file.index());
    }

    /// Files that were emptied, and that nobody has asked for since.
    pub(super) fn dormant(&self) -> BTreeSet<FileId> {
        let files = (0..).map(FileId).zip(&self.files);
        files.filter(|(_, work)| work.is_dormant()).map(|(id, _)| id).collect()
    }

    /// The file is lost for good: nothing is handed out any more.
    pub(super) fn close(&mut self, file: FileId) {
        self.change(file, FileWork::close);
        self.drop_demands(file);
    }

    /// Changes a file and keeps the sums.
    fn change<R>(&mut self, file: FileId, change: impl FnOnce(&mut FileWork) -> R) -> Option<R> {
        let work = self.files.get_mut(file.index())?;
        let (missing, ready_bytes) = (work.missing(), work.ready_bytes());
        let result = change(work);
        self.missing = self.missing - u64::from(missing) + u64::from(work.missing());
        self.ready_bytes = self.ready_bytes - ready_bytes + work.ready_bytes();
        Some(result)
    }

    /// Drops all demands on `file`: those that still stand are made again.
    pub(super) fn drop_demands(&mut self, file: FileId) {
        for line in [&mut self.short, &mut self.long] {
            line.retain(|wanted| wanted.file != file);
        }
    }

    /// How many of these blocks are not ready.
    pub(super) fn unready(&self, file: FileId, blocks: Range<u32>) -> u32 {
        self.files.get(file.index()).map_or(0, |work| work.unready(blocks))
    }

    /// Bytes of the file that are not ready.
    pub(super) fn unready_bytes(&self, file: FileId) -> u64 {
        self.files.get(file.index()).map_or(0, |work| work.layout().size() - work.ready_bytes())
    }

    /// The blocks of a file; `of_ready` says where a ready one came from.
    pub(super) fn blocks(
        &self,
        file: FileId,
        of_ready: impl Fn(BlockIndex) -> BlockState,
    ) -> Vec<BlockState> {
        self.files.get(file.index()).map_or_else(Vec::new, |work| work.blocks(of_ready))
    }

    /// How the file divides into blocks.
    pub(super) fn layout(&self, file: FileId) -> Option<Layout> {
        self.files.get(file.index()).map(FileWork::layout)
    }

    /// Missing blocks that each lane will hand out, none of them twice.
    pub(super) fn queued(&self) -> [u64; Lane::ALL.len()] {
        // By file, of those that are wanted; a whole model may be planned.
        let mut seen: Vec<Vec<bool>> = vec![Vec::new(); self.files.len()];
        let mut count = 0;
        let mut until = |lines: [&VecDeque<Wanted>; 2]| {
            let wanted = lines.into_iter().flatten();
            for (file, block) in wanted.flat_map(|wanted| missing_of(&self.files, wanted)) {
                let Some(seen) = seen.get_mut(file.index()) else { continue };
                let at = block.0 as usize;
                if seen.len() <= at {
                    seen.resize(at + 1, false);
                }
                if let Some(seen) = seen.get_mut(at) {
                    count += u64::from(!std::mem::replace(seen, true));
                }
            }
            count
        };
        let demand = until([&self.short, &self.long]);
        let asked = until([&self.ahead, &self.planned]);
        let background = if self.background { self.missing.saturating_sub(asked) } else { 0 };
        [demand, asked - demand, background]
    }

    /// Whether anything can be handed out.
    pub(super) fn has_missing(&self) -> bool {
        self.missing > 0
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

/// What chooses among blocks while they are shared with peers.
pub(super) trait Share {
    /// Takes a block that a reader waits for, if there is a place for it.
    fn claim(&self, file: FileId, block: BlockIndex) -> bool;
    /// Takes one of the wanted blocks.
    fn choose(&self, wanted: &mut dyn Iterator<Item = (FileId, BlockIndex)>) -> Option<(FileId, BlockIndex)>;
}

/// The blocks of an entry that can be handed out.
fn missing_of<'a>(
    files: &'a [FileWork],
    wanted: &Wanted,
) -> impl Iterator<Item = (FileId, BlockIndex)> + use<'a> {
    let file = wanted.file;
    let blocks = files.get(file.index()).map(|work| work.missing_in(wanted.blocks.clone()));
    blocks.into_iter().flatten().map(move |block| (file, block))
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
        if let Some(work) = files.get_mut(wanted.file.index()) {
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

#[cfg(test)]
mod tests;
