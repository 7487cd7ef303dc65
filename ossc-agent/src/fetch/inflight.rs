//! Who waits for which blocks. One fetch serves all of them: a waiter counts the blocks it still misses, and is
//! done when the last one arrives or the first one is lost. Pure: `queue` drives it under its lock, and calls
//! what it returns after letting the lock go.

use std::ops::Range;

use super::Done;
use crate::base::{BlockIndex, FileId};

/// One reader, or one of the agent's own interests.
struct Waiter {
    blocks: Range<u32>,
    /// Blocks of it that are not ready; never 0 in the list.
    missing: u32,
    done: Done,
}

/// The waiters of every file. Looking through those of one file for each block that arrives is cheap next to
/// fetching the block, and keeps whole-file waiters as small as any.
#[derive(Default)]
pub(super) struct Waiters {
    by_file: Vec<Vec<Waiter>>,
    count: usize,
}

impl Waiters {
    /// Calls `done` later: `missing` (at least 1) of these blocks are not ready.
    pub(super) fn add(&mut self, file: FileId, blocks: Range<u32>, missing: u32, done: Done) {
        if self.by_file.len() <= file.index() {
            self.by_file.resize_with(file.index() + 1, Vec::new);
        }
        self.by_file[file.index()].push(Waiter { blocks, missing, done });
        self.count += 1;
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

    /// These blocks are lost: exactly those who need one of them are done.
    pub(super) fn blocks_lost(&mut self, file: FileId, blocks: &Range<u32>) -> Vec<Done> {
        self.remove_if(file, |waiter| overlap(&waiter.blocks, blocks))
    }

    /// Everyone, at the end.
    pub(super) fn take_all(&mut self) -> Vec<Done> {
        self.count = 0;
        self.by_file.drain(..).flatten().map(|waiter| waiter.done).collect()
    }

    /// Whether anyone waits for one of these blocks.
    pub(super) fn want(&self, file: FileId, blocks: &Range<u32>) -> bool {
        self.by_file
            .get(file.index())
            .is_some_and(|waiters| waiters.iter().any(|waiter| overlap(&waiter.blocks, blocks)))
    }

    /// How many wait.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    fn remove_if(&mut self, file: FileId, is_done: impl FnMut(&mut Waiter) -> bool) -> Vec<Done> {
        let Some(waiters) = self.by_file.get_mut(file.index()) else { return Vec::new() };
        let done: Vec<Done> = waiters.extract_if(.., is_done).map(|waiter| waiter.done).collect();
        self.count -= done.len();
        done
    }
}

fn overlap(one: &Range<u32>, other: &Range<u32>) -> bool {
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::mpsc;

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
            self.waiters.add(FileId(file), blocks, missing, done);
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
        assert_eq!(readers.waiters.count(), 1);
        let rest = readers.waiters.take_all();
        assert_eq!(readers.told(rest), [3]);
        assert_eq!(readers.waiters.count(), 0);
    }

    #[test]
    fn lost_blocks_end_exactly_those_who_need_them() {
        let mut readers = Readers::new();
        readers.add(1, 0, 0..4, 4);
        readers.add(2, 0, 4..8, 4);
        readers.add(3, 0, 6..7, 1);
        readers.add(4, 1, 0..8, 8);
        assert!(readers.waiters.want(FileId(0), &(5..6)));
        let done = readers.waiters.blocks_lost(FileId(0), &(4..6));
        assert_eq!(readers.told(done), [2]);
        assert!(!readers.waiters.want(FileId(0), &(5..6)));
        assert!(!readers.waiters.want(FileId(9), &(0..1)));
        assert_eq!(readers.waiters.count(), 3);
    }
}
