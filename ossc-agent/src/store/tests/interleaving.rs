//! The ready map between threads: loom runs the very file `ready_map.rs`, with its own atomics, in every order that
//! the memory model of Rust allows, stale loads included. A bit or a count published with less than Release, or
//! looked at with less than Acquire, fails here. In every order: the tests are small.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::duplicate_mod,
    reason = "a part of the file is used, inside of this test"
)]

use loom::sync::Arc;
use loom::sync::atomic;
use loom::thread;

use self::atomic::{AtomicU32, Ordering};
use self::ready_map::ReadyMap;
use crate::base::{BlockIndex, BlockSize, ByteRange, Layout};

#[path = "../ready_map.rs"]
mod ready_map;

const BLOCK: u64 = 2 << 20;

/// A file of two blocks. A block's bytes are one number, which is 0 where nothing was written; nothing but the map
/// orders what threads see of it.
struct File {
    ready: ReadyMap,
    bytes: [AtomicU32; 2],
}

impl File {
    fn new() -> Arc<Self> {
        let layout = Layout::new(2 * BLOCK, BlockSize::MIN).unwrap();
        Arc::new(Self { ready: ReadyMap::new(layout), bytes: [AtomicU32::new(0), AtomicU32::new(0)] })
    }

    /// What a worker does.
    fn arrive(&self, block: u32) {
        self.bytes[block as usize].store(1, Ordering::Relaxed);
        assert!(self.ready.set(BlockIndex(block)));
    }

    /// What a reader does: if it is let in it must see the bytes.
    fn read(&self, blocks: std::ops::Range<u32>) {
        let range = ByteRange::new(u64::from(blocks.start) * BLOCK, u64::from(blocks.end) * BLOCK);
        if self.ready.covers(range) {
            for block in blocks {
                assert_eq!(self.bytes[block as usize].load(Ordering::Relaxed), 1, "a hole in block {block}");
            }
        }
    }
}

#[test]
fn a_reader_that_is_let_in_sees_the_bytes_of_one_block() {
    loom::model(|| {
        let file = File::new();
        let worker = thread::spawn({
            let file = Arc::clone(&file);
            move || file.arrive(1)
        });
        file.read(1..2);
        worker.join().unwrap();
        file.read(1..2);
    });
}

#[test]
fn a_reader_that_is_let_in_sees_the_bytes_of_two_workers() {
    loom::model(|| {
        let file = File::new();
        let workers = [0, 1].map(|block| {
            let file = Arc::clone(&file);
            thread::spawn(move || file.arrive(block))
        });
        file.read(0..2);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert!(file.ready.is_full());
    });
}
