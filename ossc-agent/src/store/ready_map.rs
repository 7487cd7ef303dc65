//! Which blocks of one file are there: one bit a block, in memory.
//!
//! Bits are set only by `File::commit`, after the block's bytes are in the file, with Release; whoever
//! reads one with Acquire may let a reader at the bytes. The gate asks `covers` for each held call, so
//! reading takes no lock. The form on disk is `ready_file`.

use std::ops::Range;

// The parent's, so that `tests/interleaving` can explore this very file with a checker's atomics.
use super::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::base::{BlockIndex, ByteRange, Layout};

const WORD_BITS: u32 = u64::BITS;

/// One bit a block.
#[derive(Debug)]
pub struct ReadyMap {
    layout: Layout,
    words: Box<[AtomicU64]>,
    /// How many bits are set. Raised after the bit, so a full count means every bit.
    count: AtomicU32,
}

/// Word and bit of a block.
fn place(block: u32) -> (usize, u64) {
    ((block / WORD_BITS) as usize, 1 << (block % WORD_BITS))
}

impl ReadyMap {
    /// With nothing ready.
    pub(super) fn new(layout: Layout) -> Self {
        let words = (0..layout.block_count().div_ceil(WORD_BITS)).map(|_| AtomicU64::new(0)).collect();
        Self { layout, words, count: AtomicU32::new(0) }
    }

    /// Marks one block; `true` if it was not ready before.
    pub(super) fn set(&self, block: BlockIndex) -> bool {
        if block.0 >= self.layout.block_count() {
            return false;
        }
        let (word, bit) = place(block.0);
        let Some(word) = self.words.get(word) else { return false };
        let newly = word.fetch_or(bit, Ordering::Release) & bit == 0;
        if newly {
            self.count.fetch_add(1, Ordering::Release);
        }
        newly
    }

    /// Marks every block as not there. Not to be called while blocks are being set.
    pub(super) fn clear(&self) {
        self.count.store(0, Ordering::Release);
        for word in &self.words {
            word.store(0, Ordering::Release);
        }
    }

    /// A copy of the words, lowest block in the lowest bit of the first one.
    pub(super) fn snapshot(&self) -> Vec<u64> {
        self.words.iter().map(|word| word.load(Ordering::Acquire)).collect()
    }

    /// Whether the block's bytes are in the file.
    #[must_use]
    pub fn is_ready(&self, block: BlockIndex) -> bool {
        let (word, bit) = place(block.0);
        self.words.get(word).is_some_and(|word| word.load(Ordering::Acquire) & bit != 0)
    }

    /// Whether every byte of the range is there. Bytes behind the end of the file need nothing.
    #[must_use]
    pub fn covers(&self, range: ByteRange) -> bool {
        let blocks = self.layout.blocks_of(range);
        self.is_full() || self.first_missing(blocks.start).is_none_or(|missing| missing >= blocks.end)
    }

    /// Number of ready blocks.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Whether all are ready; so is the map of an empty file.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count() >= self.layout.block_count()
    }

    /// The first block from `from` on that is not ready.
    #[must_use]
    pub fn first_missing(&self, from: u32) -> Option<u32> {
        self.next(from, |word| !word)
    }

    /// The first block from `from` on that is ready.
    fn first_ready(&self, from: u32) -> Option<u32> {
        self.next(from, |word| word)
    }

    /// The first block from `from` on whose bit is set in its word as `view` shows it.
    fn next(&self, from: u32, view: impl Fn(u64) -> u64) -> Option<u32> {
        let (first, bit) = place(from);
        // Bits below `from` do not count in its own word.
        let mut below = bit - 1;
        for (at, word) in self.words.iter().enumerate().skip(first) {
            let candidates = view(word.load(Ordering::Acquire)) & !below;
            below = 0;
            if candidates != 0 {
                let block = u32::try_from(at).ok()?.checked_mul(WORD_BITS)? + candidates.trailing_zeros();
                return (block < self.layout.block_count()).then_some(block);
            }
        }
        None
    }

    /// Runs of adjacent missing blocks from `from` on, none longer than `max_blocks`; for cutting what is
    /// left into extents. Blocks that become ready meanwhile may or may not be in it.
    pub fn missing_runs(&self, from: u32, max_blocks: u32) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut at = from;
        std::iter::from_fn(move || {
            let start = self.first_missing(at)?;
            let end = self.first_ready(start).unwrap_or(self.layout.block_count());
            at = end.min(start.saturating_add(max_blocks.max(1)));
            Some(start..at)
        })
    }
}
