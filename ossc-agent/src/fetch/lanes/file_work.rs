//! The blocks of one file, as far as fetching goes: missing, in flight, or ready. Pure. A block is handed out
//! once; one that was lost is missing again, and the file rests then, which `lanes` heeds for all but demands.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Instant;

use crate::base::{BlockIndex, Layout};
use crate::fetch::view::BlockState;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Missing,
    InFlight,
    Ready,
}

#[derive(Debug)]
pub(super) struct FileWork {
    layout: Layout,
    states: Vec<State>,
    /// Blocks in state `Missing`.
    missing: u32,
    /// Blocks in state `Ready`, and their bytes.
    ready: u32,
    ready_bytes: u64,
    /// No block before this one is missing.
    first_missing: u32,
    /// After a failure: only demands are served before this time.
    rests_until: Option<Instant>,
    /// Blocks that failed and have not arrived since.
    lost: BTreeSet<u32>,
    /// Lost for good: nothing is handed out any more.
    closed: bool,
    /// Its bytes are being given up: nothing is handed out now.
    emptying: bool,
    /// Its bytes were given up: nothing is handed out until somebody asks for it.
    dormant: bool,
}

impl FileWork {
    pub(super) fn new(layout: Layout, is_ready: impl Fn(BlockIndex) -> bool) -> Self {
        let count = layout.block_count();
        let mut file = Self {
            layout,
            states: vec![State::InFlight; count as usize],
            missing: 0,
            ready: 0,
            ready_bytes: 0,
            first_missing: 0,
            rests_until: None,
            lost: BTreeSet::new(),
            closed: false,
            emptying: false,
            dormant: false,
        };
        for block in (0..count).map(BlockIndex) {
            if is_ready(block) {
                file.block_ready(block);
            } else {
                file.set_missing(block);
            }
        }
        file
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// All blocks; `of_ready` says where a ready one came from.
    pub(super) fn blocks(&self, of_ready: impl Fn(BlockIndex) -> BlockState) -> Vec<BlockState> {
        let view = |(block, state): (u32, &State)| match state {
            State::Missing => BlockState::Missing,
            State::InFlight => BlockState::Fetching,
            State::Ready => of_ready(BlockIndex(block)),
        };
        (0..).zip(&self.states).map(view).collect()
    }

    /// Blocks that can be handed out.
    pub(super) fn missing(&self) -> u32 {
        if self.gives_nothing() { 0 } else { self.missing }
    }

    fn gives_nothing(&self) -> bool {
        self.closed || self.emptying || self.dormant
    }

    pub(super) fn ready_bytes(&self) -> u64 {
        self.ready_bytes
    }

    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rests_until
    }

    pub(super) fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    /// How many of these blocks are not ready.
    pub(super) fn unready(&self, blocks: Range<u32>) -> u32 {
        let states = self.states.get(blocks.start as usize..blocks.end as usize).unwrap_or_default();
        count(states.iter().filter(|state| **state != State::Ready).count())
    }

    /// No block before this one can be handed out.
    pub(super) fn first_missing(&self) -> u32 {
        self.first_missing
    }

    /// Blocks that can be handed out.
    pub(super) fn missing_in(&self, within: Range<u32>) -> impl Iterator<Item = BlockIndex> + use<'_> {
        let end = if self.gives_nothing() { 0 } else { within.end.min(self.layout.block_count()) };
        let states = self.states.get(within.start as usize..end as usize).unwrap_or_default();
        let missing = (within.start..).zip(states).filter(|(_, state)| **state == State::Missing);
        missing.map(|(block, _)| BlockIndex(block))
    }

    /// Hands out the first run of missing blocks `within`, at most `max` of them.
    pub(super) fn claim(&mut self, within: Range<u32>, max: u32) -> Option<Range<u32>> {
        if self.gives_nothing() {
            return None;
        }
        let end = within.end.min(self.layout.block_count());
        let states = self.states.get_mut(within.start as usize..end as usize)?;
        let skip = states.iter().position(|state| *state == State::Missing)?;
        let run =
            states[skip..].iter().take(max as usize).take_while(|state| **state == State::Missing).count();
        states[skip..skip + run].fill(State::InFlight);
        self.missing -= count(run);
        let start = within.start + count(skip);
        if start == self.first_missing {
            self.first_missing = start + count(run);
        }
        Some(start..start + count(run))
    }

    /// Hands out the first run of missing blocks of the file.
    pub(super) fn claim_first(&mut self, max: u32) -> Option<Range<u32>> {
        let blocks = self.claim(self.first_missing..self.layout.block_count(), max)?;
        self.first_missing = blocks.end;
        Some(blocks)
    }

    /// A block that was handed out is there. True if it was the last one of the file.
    pub(super) fn block_ready(&mut self, block: BlockIndex) -> bool {
        let Some(state @ State::InFlight) = self.states.get_mut(block.0 as usize) else { return false };
        *state = State::Ready;
        self.ready += 1;
        self.ready_bytes += self.layout.range_of(block).len();
        self.rests_until = None;
        self.lost.remove(&block.0);
        self.ready == self.layout.block_count()
    }

    /// Blocks that were handed out could not be had, the first of them being the one that failed. True if this
    /// is news: no other block of the file failed and has not arrived since.
    pub(super) fn put_back(&mut self, blocks: Range<u32>, rests_until: Instant) -> bool {
        let news = self.lost.is_empty();
        self.lost.insert(blocks.start);
        self.rests_until = Some(rests_until);
        for block in blocks.map(BlockIndex) {
            if self.states.get(block.0 as usize) == Some(&State::InFlight) {
                self.set_missing(block);
            }
        }
        news
    }

    /// What was ready is missing again.
    pub(super) fn forget(&mut self) {
        for block in (0..self.layout.block_count()).map(BlockIndex) {
            if self.states.get(block.0 as usize) == Some(&State::Ready) {
                self.set_missing(block);
            }
        }
        (self.ready, self.ready_bytes) = (0, 0);
    }

    /// A block that was ready is missing again.
    pub(super) fn forget_one(&mut self, block: BlockIndex) {
        if self.states.get(block.0 as usize) == Some(&State::Ready) {
            self.set_missing(block);
            self.ready -= 1;
            self.ready_bytes -= self.layout.range_of(block).len();
        }
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// The bytes of a full file are about to go.
    pub(super) fn begin_emptying(&mut self) {
        self.forget();
        self.emptying = true;
    }

    /// They have gone: the file rests until [`Self::rouse`].
    pub(super) fn emptied(&mut self) {
        (self.emptying, self.dormant) = (false, true);
    }

    /// They have not.
    pub(super) fn kept(&mut self) {
        self.states.fill(State::Ready);
        (self.missing, self.ready, self.ready_bytes) = (0, self.layout.block_count(), self.layout.size());
        (self.emptying, self.first_missing) = (false, self.layout.block_count());
    }

    /// Somebody asks for it.
    pub(super) fn rouse(&mut self) {
        self.dormant = false;
    }

    pub(super) fn is_dormant(&self) -> bool {
        self.dormant
    }

    fn set_missing(&mut self, block: BlockIndex) {
        if let Some(state) = self.states.get_mut(block.0 as usize) {
            *state = State::Missing;
            self.missing += 1;
            self.first_missing = self.first_missing.min(block.0);
        }
    }
}

/// A number of blocks of one file, which fits by the layout.
fn count(blocks: usize) -> u32 {
    u32::try_from(blocks).unwrap_or(u32::MAX)
}
