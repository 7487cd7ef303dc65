//! Who waits for which blocks. One fetch serves all of them: a waiter counts the blocks it still misses, and is
//! done when the last one arrives or the first one is lost. Pure: `queue` drives it under its lock, and calls
//! what it returns after letting the lock go.

use std::ops::Range;

use super::Done;
use crate::base::{BlockIndex, FileId, Lane};

/// One reader, or one of the agent's own interests.
struct Waiter {
    blocks: Range<u32>,
    /// Blocks of it that are not ready; never 0 in the list.
    missing: u32,
    lane: Lane,
    done: Done,
}

/// The waiters of every file. Looking through those of one file for each block that arrives is cheap next to
/// fetching the block, and keeps whole-file waiters as small as any.
#[derive(Default)]
pub(super) struct Waiters {
    by_file: Vec<Vec<Waiter>>,
}

impl Waiters {
    /// Calls `done` later: `missing` (at least 1) of these blocks are not ready. `lane` is how they are wanted.
    pub(super) fn add(&mut self, file: FileId, blocks: Range<u32>, missing: u32, lane: Lane, done: Done) {
        if self.by_file.len() <= file.index() {
            self.by_file.resize_with(file.index() + 1, Vec::new);
        }
        self.by_file[file.index()].push(Waiter { blocks, missing, lane, done });
    }

    /// A block arrived: whoever missed only this one is done.
    pub(super) fn block_ready(&mut self, file: FileId, block: BlockIndex) -> Vec<Done> {
        self.remove_if(file, |waiter| {
            if !waiter.blocks.contains(&block.0) {
                return false;
            }
            waiter.missing = waiter.missing.saturating_sub(1);
            waiter.missing == 0
        })
    }

    /// A block is lost: exactly those who need it are done.
    pub(super) fn block_lost(&mut self, file: FileId, block: BlockIndex) -> Vec<Done> {
        self.remove_if(file, |waiter| waiter.blocks.contains(&block.0))
    }

    /// All blocks of a file are lost.
    pub(super) fn file_lost(&mut self, file: FileId) -> Vec<Done> {
        self.remove_if(file, |_| true)
    }

    /// Everyone, at the end.
    pub(super) fn take_all(&mut self) -> Vec<Done> {
        self.by_file.drain(..).flatten().map(|waiter| waiter.done).collect()
    }

    /// What is waited for in a file, in order of arrival.
    pub(super) fn of_file(&self, file: FileId) -> impl Iterator<Item = (Range<u32>, Lane)> {
        let waiters = self.by_file.get(file.index()).map_or(&[][..], Vec::as_slice);
        waiters.iter().map(|waiter| (waiter.blocks.clone(), waiter.lane))
    }

    /// How many readers wait.
    pub(super) fn readers(&self) -> usize {
        self.by_file.iter().flatten().filter(|waiter| waiter.lane == Lane::Demand).count()
    }

    fn remove_if(&mut self, file: FileId, is_done: impl FnMut(&mut Waiter) -> bool) -> Vec<Done> {
        let Some(waiters) = self.by_file.get_mut(file.index()) else { return Vec::new() };
        waiters.extract_if(.., is_done).map(|waiter| waiter.done).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::sync::mpsc;

    use proptest::prelude::*;

    use super::*;
    use crate::fetch::Failure;

    struct Readers {
        waiters: Waiters,
        tell: mpsc::Sender<u32>,
        told: mpsc::Receiver<u32>,
    }

    impl Readers {
        fn new() -> Self {
            let (tell, told) = mpsc::channel();
            Self { waiters: Waiters::default(), tell, told }
        }

        fn add(&mut self, name: u32, file: u32, blocks: Range<u32>, missing: u32) {
            let tell = self.tell.clone();
            let done: Done = Box::new(move |_: Result<(), Failure>| tell.send(name).unwrap());
            self.waiters.add(FileId(file), blocks, missing, Lane::Demand, done);
        }

        fn told(&self, done: Vec<Done>) -> Vec<u32> {
            let done = RefCell::new(done);
            done.take().into_iter().for_each(|done| done(Ok(())));
            self.told.try_iter().collect()
        }
    }

    #[test]
    fn a_waiter_is_done_with_its_last_block() {
        let mut readers = Readers::new();
        readers.add(1, 0, 0..3, 2);
        readers.add(2, 0, 2..3, 1);
        readers.add(3, 1, 2..3, 1);
        for (block, told) in [(7, vec![]), (2, vec![2]), (1, vec![1]), (1, vec![])] {
            let done = readers.waiters.block_ready(FileId(0), BlockIndex(block));
            assert_eq!(readers.told(done), told, "block {block}");
        }
        assert_eq!(readers.waiters.readers(), 1);
        let rest = readers.waiters.take_all();
        assert_eq!(readers.told(rest), [3]);
        assert_eq!(readers.waiters.readers(), 0);
    }

    #[test]
    fn a_lost_block_ends_exactly_those_who_need_it() {
        let mut readers = Readers::new();
        readers.add(1, 0, 0..4, 4);
        readers.add(2, 0, 4..8, 4);
        readers.add(3, 0, 6..7, 1);
        readers.add(4, 1, 0..8, 8);
        let done = readers.waiters.block_lost(FileId(0), BlockIndex(5));
        assert_eq!(readers.told(done), [2]);
        let left: Vec<_> = readers.waiters.of_file(FileId(0)).collect();
        assert_eq!(left, [(0..4, Lane::Demand), (6..7, Lane::Demand)]);
        assert_eq!(readers.waiters.of_file(FileId(9)).count(), 0);
        assert_eq!(readers.waiters.readers(), 3);
    }

    proptest! {
        #[test]
        fn each_waiter_is_told_once_at_its_last_block_or_its_first_loss(
            waiters in prop::collection::vec((0..2_u32, 0..8_u32, 1..5_u32), 1..10),
            events in prop::collection::vec((0..2_u32, 0..12_u32, any::<bool>()), 0..60),
        ) {
            let mut readers = Readers::new();
            let mut waiting: Vec<(u32, u32, BTreeSet<u32>)> = Vec::new();
            for (name, (file, start, len)) in (0..).zip(waiters) {
                readers.add(name, file, start..start + len, len);
                waiting.push((name, file, (start..start + len).collect()));
            }
            let mut ready = BTreeSet::new();
            for (file, block, is_lost) in events {
                // A block arrives once, and cannot be lost afterwards.
                if ready.contains(&(file, block)) {
                    continue;
                }
                let mut expected = Vec::new();
                waiting.retain_mut(|(name, its, missing)| {
                    let is_done = *its == file && missing.remove(&block) && (is_lost || missing.is_empty());
                    expected.extend(is_done.then_some(*name));
                    !is_done
                });
                let done = if is_lost {
                    readers.waiters.block_lost(FileId(file), BlockIndex(block))
                } else {
                    ready.insert((file, block));
                    readers.waiters.block_ready(FileId(file), BlockIndex(block))
                };
                prop_assert_eq!(readers.told(done), expected);
                prop_assert_eq!(readers.waiters.readers(), waiting.len());
            }
        }
    }
}
