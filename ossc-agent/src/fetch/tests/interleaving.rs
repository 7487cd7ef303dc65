//! Queue, waiters and ready map between threads: shuttle runs the very files `queue.rs`, `sync.rs` and `ready_map.rs`,
//! with its own locks, atomics and threads, in thousands of random orders of their steps. One fetch a block however many
//! want it; a reader is told only when its bytes are there; nobody waits for ever, since shuttle fails when every
//! thread waits. tokio's `Notify` cannot be looked into, so one with the same contract stands in.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::duplicate_mod,
    reason = "a part of the files is used, inside of this test"
)]

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

use shuttle::sync::atomic::{self, AtomicBool, AtomicU32, Ordering};
use shuttle::sync::mpsc;
use shuttle::{future, thread};

use self::queue::{Queue, Work};
use self::ready_map::ReadyMap;
// For the files below, whose parent this is.
use crate::base::{BlockIndex, BlockSize, ByteRange, FileId, Lane, Layout};
use crate::fetch::{Done, failure, inflight, lanes, progress};

mod primitives;
#[path = "../queue.rs"]
mod queue;
#[path = "../../store/ready_map.rs"]
mod ready_map;
#[path = "../sync.rs"]
mod sync;

/// Orders tried of each scene.
const ORDERS: usize = 3000;
const FILE: FileId = FileId(0);
const BLOCK: u64 = 2 << 20;
const BLOCKS: u32 = 3;

/// One file that is loaded.
struct Load {
    queue: Queue,
    ready: ReadyMap,
    /// What the data file has.
    written: [AtomicBool; BLOCKS as usize],
    fetches: [AtomicU32; BLOCKS as usize],
}

impl Load {
    fn new() -> Arc<Self> {
        let layout = Layout::new(u64::from(BLOCKS) * BLOCK, BlockSize::MIN).unwrap();
        let mut lanes = lanes::Lanes::new(NonZeroU32::new(2).unwrap());
        lanes.add_file(layout, |_| false);
        Arc::new(Self {
            queue: Queue::new(lanes, VecDeque::new()),
            ready: ReadyMap::new(layout),
            written: std::array::from_fn(|_| AtomicBool::new(false)),
            fetches: std::array::from_fn(|_| AtomicU32::new(0)),
        })
    }

    /// What a connection does, with files and network left out. `full` says what becomes of a full file.
    fn work(self: Arc<Self>, full: impl Fn(&Self)) {
        future::block_on(async {
            loop {
                match self.queue.next(0).await {
                    Work::Fetch(extent, _) => {
                        for block in extent.blocks {
                            self.fetches[block as usize].fetch_add(1, Ordering::Relaxed);
                            self.written[block as usize].store(true, Ordering::Relaxed);
                            self.ready.set(BlockIndex(block));
                            self.queue.block_ready(FILE, BlockIndex(block));
                        }
                    }
                    Work::Seal(_) => full(&self),
                    Work::Stop => return,
                }
            }
        });
    }

    /// What the gate does for a held reader, and what the reader sees.
    fn read(&self, blocks: Range<u32>) {
        let range = ByteRange::new(u64::from(blocks.start) * BLOCK, u64::from(blocks.end) * BLOCK);
        let is_there = || self.ready.covers(range);
        if !is_there() {
            let (tell, told) = mpsc::channel();
            let done: Done = Box::new(move |result| tell.send(result.is_ok()).unwrap());
            self.queue.want(FILE, range, Lane::Demand, is_there, done);
            assert_eq!(told.recv(), Ok(true));
        }
        for block in blocks {
            assert!(self.written[block as usize].load(Ordering::Relaxed), "a hole in block {block}");
        }
    }

    fn fetches(&self) -> [u32; BLOCKS as usize] {
        std::array::from_fn(|block| self.fetches[block].load(Ordering::Relaxed))
    }
}

/// Readers of these blocks and two workers, until all readers have their bytes.
fn load(readers: &[Range<u32>], full: impl Fn(&Load) + Send + Clone + 'static) -> Arc<Load> {
    let load = Load::new();
    let workers = [(); 2].map(|()| {
        let (load, full) = (Arc::clone(&load), full.clone());
        thread::spawn(move || load.work(full))
    });
    let readers: Vec<_> = readers
        .iter()
        .map(|blocks| {
            let (load, blocks) = (Arc::clone(&load), blocks.clone());
            thread::spawn(move || load.read(blocks))
        })
        .collect();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    load.queue.close();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert_eq!(load.queue.progress().readers, 0);
    load
}

#[test]
fn a_block_is_fetched_once_for_all_who_wait() {
    let scene = || {
        let load = load(&[0..2, 1..3, 1..2], |_| ());
        assert_eq!(load.fetches(), [1; BLOCKS as usize]);
    };
    shuttle::check_random(scene, ORDERS);
    shuttle::check_pct(scene, ORDERS, 3);
}

#[test]
fn a_reader_that_nobody_else_waits_with_is_answered() {
    shuttle::check_random(
        || {
            let load = load(&[2..3], |_| ());
            assert_eq!(load.fetches(), [0, 0, 1]);
        },
        ORDERS,
    );
}

#[test]
fn a_file_that_is_forgotten_is_fetched_again_and_its_readers_answered() {
    let again = |load: &Load| {
        if load.queue.mismatched(FILE) {
            load.ready.clear();
            load.queue.forgotten(FILE);
        }
    };
    let scene = move || {
        let load = load(&[0..3, 1..2], again);
        assert!(load.fetches().iter().all(|fetches| (1..=2).contains(fetches)), "{:?}", load.fetches());
    };
    shuttle::check_random(scene, ORDERS);
}

#[test]
fn planned_and_background_work_serve_a_reader_too() {
    shuttle::check_random(
        || {
            let load = Load::new();
            let workers = [(); 2].map(|()| {
                let load = Arc::clone(&load);
                thread::spawn(move || load.work(|_| ()))
            });
            let reader = thread::spawn({
                let load = Arc::clone(&load);
                move || load.read(0..2)
            });
            load.queue.plan(FILE, ByteRange::new(0, BLOCK));
            load.queue.start_background();
            reader.join().unwrap();
            // The background fetches the rest, unless the end comes first.
            load.queue.close();
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            assert!(load.fetches().iter().all(|fetches| *fetches <= 1), "{:?}", load.fetches());
        },
        ORDERS,
    );
}
