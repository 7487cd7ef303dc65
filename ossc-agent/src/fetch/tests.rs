//! Queue and workers against a scripted source and a real store.

mod fake;
mod interleaving;
mod queue;

use std::path::Path;
use std::sync::mpsc;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

use self::fake::{Origin, Reply, Request, content, object};
use super::source::Remedy;
use super::*;
use crate::base::{Backoff, BlockSize};
use crate::store;

const BLOCK: u64 = 2 << 20;

/// As many tries as in production, without the waits.
const HASTY: Policy = Policy {
    tries: 8,
    pause: Backoff::new(Duration::from_millis(1), Duration::from_millis(2)),
    slow_pause: Backoff::new(Duration::from_millis(1), Duration::from_millis(2)),
    slow_total: Duration::from_millis(10),
    rest: RETRY_PAUSE,
};

/// A fetcher over a store in a scratch directory.
struct Load {
    fetcher: Fetcher,
    store: Arc<Store>,
    origin: Arc<Origin>,
    events: UnboundedReceiver<Event>,
    /// Removed last.
    dir: Option<TempDir>,
}

impl Load {
    /// `threads` times `connections` over files of so many bytes.
    fn start(threads: u32, connections: u32, sizes: &[u64], origin: Arc<Origin>) -> Self {
        let dir = TempDir::new().unwrap();
        let mut load = Self::start_on(open_store(dir.path(), sizes), threads, connections, origin);
        load.dir = Some(dir);
        load
    }

    fn start_on(store: Arc<Store>, threads: u32, connections: u32, origin: Arc<Origin>) -> Self {
        let config = Config {
            threads: NonZeroU32::new(threads).unwrap(),
            connections_per_thread: NonZeroU32::new(connections).unwrap(),
            ..Config::default()
        };
        let (tell, events) = unbounded_channel();
        let connect: Connect<fake::FakeConnection> = {
            let origin = Arc::clone(&origin);
            Arc::new(move || origin.connect())
        };
        let fetcher = Fetcher::start_with(&config, Arc::clone(&store), &connect, HASTY, tell).unwrap();
        Self { fetcher, store, origin, events, dir: None }
    }

    /// Demands a range; the answer comes over the channel.
    fn demand(&self, file: u32, start: u64, end: u64) -> mpsc::Receiver<Result<(), Errno>> {
        let (tell, told) = mpsc::channel();
        let done = Box::new(move |result: Result<(), Failure>| {
            // A test may have stopped listening.
            tell.send(result.map_err(|failure| failure.errno())).ok();
        });
        self.fetcher.demand(FileId(file), ByteRange::new(start, end), done);
        told
    }

    fn event(&mut self) -> Event {
        self.events.blocking_recv().unwrap()
    }

    fn check_bytes(&self, file: u32, range: ByteRange) {
        let file = self.store.file(FileId(file)).unwrap();
        let mut expected = vec![0; usize::try_from(range.len()).unwrap()];
        content(&file.object().key, range.start(), &mut expected);
        let mut found = vec![0; expected.len()];
        let mut at = 0;
        while at < found.len() {
            match file.read_at(range.start() + at as u64, &mut found[at..]).unwrap() {
                0 => panic!("file ends early"),
                read => at += read,
            }
        }
        assert!(found == expected, "wrong bytes in {range} of {}", file.object().key);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.fetcher.drain(Duration::ZERO);
    }
}

fn open_store(dir: &Path, sizes: &[u64]) -> Arc<Store> {
    let objects = (0..).zip(sizes).map(|(number, size)| object(&format!("part-{number}"), *size)).collect();
    let config = store::Config { model_dir: dir.join("model"), block_size: Some(BlockSize::MIN) };
    Arc::new(Store::open(&config, objects).unwrap())
}

/// A held reply, and the sender that lets it go.
fn hold() -> (watch::Sender<bool>, Reply) {
    let (open, hold) = watch::channel(false);
    (open, Reply { hold: Some(hold), ..Reply::default() })
}

fn plain(_: &Request) -> Reply {
    Reply::default()
}

fn blocks(requests: &[Request]) -> Vec<(u64, u64)> {
    requests
        .iter()
        .map(|request| (request.range.start() / BLOCK, request.range.end().div_ceil(BLOCK)))
        .collect()
}

#[test]
fn sixteen_readers_and_the_background_fetch_each_block_once() {
    let sizes = [9 * BLOCK + 5, 0, 1, 6 * BLOCK];
    let mut load = Load::start(2, 4, &sizes, Origin::new(300_001, plain));
    load.fetcher.plan(FileId(3), ByteRange::new(BLOCK, 2 * BLOCK));
    let mut rng = fastrand::Rng::with_seed(1);
    let waits: Vec<_> = (0..16)
        .map(|reader| {
            let file = [0, 3][reader % 2];
            let size = sizes[file as usize];
            let start = rng.u64(..size);
            let end = if reader < 4 { size } else { start + rng.u64(..3 * BLOCK) };
            (file, ByteRange::new(start, end).clip(size), load.demand(file, start, end))
        })
        .collect();
    load.fetcher.start_background();
    for (file, range, told) in waits {
        assert_eq!(told.recv().unwrap(), Ok(()));
        load.check_bytes(file, range);
    }
    let mut complete: Vec<u32> = Vec::new();
    let expected = load.store.files().iter().filter(|file| !file.is_complete()).count();
    while complete.len() < expected {
        match load.event() {
            Event::Complete(file) => complete.push(file.0),
            Event::Failed(file, failure) => panic!("{file:?}: {failure}"),
        }
    }
    for file in load.store.files() {
        assert!(file.is_complete());
        load.check_bytes(file.id().0, ByteRange::new(0, file.object().size));
        let key = &file.object().key;
        let mut ranges: Vec<_> = load
            .origin
            .requests()
            .into_iter()
            .filter(|request| request.key == *key)
            .map(|r| r.range)
            .collect();
        ranges.sort();
        let mut at = 0;
        for range in ranges {
            assert_eq!(range.start(), at, "{key}");
            at = range.end();
        }
        assert_eq!(at, file.object().size);
    }
    let progress = load.fetcher.progress();
    assert_eq!(progress.bytes_ready, progress.bytes_total);
    assert_eq!(progress.counts.bytes_fetched, progress.bytes_total);
    assert_eq!(progress.readers, 0);
}

#[test]
fn demand_overtakes_plan_and_background() {
    let (open, held) = hold();
    let origin = Origin::new(1 << 20, move |request| match request.number {
        0 => held.clone(),
        _ => Reply::default(),
    });
    let load = Load::start(1, 1, &[8 * BLOCK, 8 * BLOCK], origin);
    load.fetcher.start_background();
    load.origin.await_requests(1);
    load.fetcher.plan(FileId(1), ByteRange::new(0, BLOCK));
    let told = load.demand(1, 8 * BLOCK - 4096, 8 * BLOCK);
    open.send(true).unwrap();
    assert_eq!(told.recv().unwrap(), Ok(()));
    assert_eq!(blocks(&load.origin.await_requests(3))[..3], [(0, 1), (7, 8), (0, 1)]);
}

#[test]
fn a_broken_body_goes_on_at_the_next_missing_byte_on_a_fresh_connection() {
    // Within a block: a request is one block or more, by the speed measured.
    let unsent = 123_457;
    let origin = Origin::new(70_001, move |request| Reply {
        break_after: (request.number == 1).then(|| request.range.len() - unsent),
        ..Reply::default()
    });
    let mut load = Load::start(1, 1, &[5 * BLOCK], origin);
    load.fetcher.start_background();
    assert!(matches!(load.event(), Event::Complete(FileId(0))));
    load.check_bytes(0, ByteRange::new(0, 5 * BLOCK));
    let requests = load.origin.requests();
    let broken = &requests[1];
    assert_eq!(requests[2].range, ByteRange::new(broken.range.end() - unsent, broken.range.end()));
    assert_ne!(requests[2].connection, broken.connection);
    assert_eq!(load.fetcher.progress().counts.retries, 1);
}

#[test]
fn a_permanent_failure_reaches_exactly_the_readers_of_its_blocks() {
    let (open, held) = hold();
    let (repair, broken) = watch::channel(true);
    let origin = Origin::new(1 << 20, move |request| match request.range.start() / BLOCK {
        _ if request.number == 0 => held.clone(),
        3 if *broken.borrow() => Reply { fault: Some(Remedy::GiveUp), ..Reply::default() },
        _ => Reply::default(),
    });
    let load = Load::start(1, 1, &[20 * BLOCK, BLOCK], origin);
    let first = load.demand(0, 0, 1);
    load.origin.await_requests(1);
    let lost = load.demand(0, 3 * BLOCK + 7, 3 * BLOCK + 8);
    let around = load.demand(0, 2 * BLOCK, 5 * BLOCK);
    let behind = load.demand(0, 4 * BLOCK, 5 * BLOCK);
    let other = load.demand(1, 0, 1);
    open.send(true).unwrap();
    assert_eq!(lost.recv().unwrap(), Err(Errno::EIO));
    assert_eq!(around.recv().unwrap(), Err(Errno::EIO));
    for told in [first, behind, other] {
        assert_eq!(told.recv().unwrap(), Ok(()));
    }
    let before = load.origin.requests().len();
    repair.send(false).unwrap();
    assert_eq!(load.demand(0, 3 * BLOCK, 4 * BLOCK).recv().unwrap(), Ok(()));
    assert_eq!(blocks(&load.origin.requests()[before..]), [(3, 4)]);
    assert_eq!(load.fetcher.progress().counts.failures, 1);
}

#[test]
fn tries_are_bounded() {
    for (remedy, requests) in [(Remedy::TryAgain, 8..=8), (Remedy::SlowDown, 5..=40), (Remedy::GiveUp, 1..=1)]
    {
        let origin = Origin::new(1, move |_| Reply { fault: Some(remedy), ..Reply::default() });
        let load = Load::start(1, 1, &[BLOCK], origin);
        assert_eq!(load.demand(0, 0, 1).recv().unwrap(), Err(Errno::EIO));
        let count = load.origin.requests().len();
        assert!(requests.contains(&count), "{remedy:?}: {count}");
        let counts = load.fetcher.progress().counts;
        assert_eq!(counts.requests, count as u64);
        assert_eq!(counts.retries, count as u64 - 1);
        assert_eq!(counts.slow_downs, if remedy == Remedy::SlowDown { counts.retries } else { 0 });
    }
}

#[test]
fn a_replaced_object_loses_its_file_for_good_and_no_other() {
    let origin = Origin::new(1 << 20, |request| Reply {
        fault: (request.key == "part-0").then_some(Remedy::GiveUpFile),
        ..Reply::default()
    });
    let mut load = Load::start(1, 2, &[40 * BLOCK, BLOCK], origin);
    let map = load.demand(0, 0, 40 * BLOCK);
    let read = load.demand(0, 39 * BLOCK, 40 * BLOCK);
    assert_eq!(map.recv().unwrap(), Err(Errno::ESTALE));
    assert_eq!(read.recv().unwrap(), Err(Errno::ESTALE));
    assert!(matches!(load.event(), Event::Failed(FileId(0), _)));
    let asked = load.origin.requests().len();
    assert_eq!(load.demand(0, 5, 6).recv().unwrap(), Err(Errno::ESTALE));
    load.fetcher.start_background();
    assert!(matches!(load.event(), Event::Complete(FileId(1))));
    assert_eq!(load.origin.requests().len(), asked + 1);
}

#[test]
fn wrong_bytes_are_fetched_once_more_and_then_the_file_is_lost() {
    for wrong_loads in [1, 2] {
        let wrong = 3 * wrong_loads;
        let origin = Origin::new(1 << 20, move |request| Reply {
            corrupt: request.number < wrong,
            ..Reply::default()
        });
        let mut load = Load::start(1, 1, &[3 * BLOCK], origin);
        for block in 0..3 {
            // One by one, so that every request is one block.
            load.demand(0, block * BLOCK, block * BLOCK + 1).recv().unwrap().unwrap();
        }
        let event = load.event();
        let told = load.demand(0, 0, 3 * BLOCK).recv().unwrap();
        if wrong_loads == 1 {
            assert!(matches!(event, Event::Complete(FileId(0))), "{event:?}");
            assert_eq!(told, Ok(()));
            load.check_bytes(0, ByteRange::new(0, 3 * BLOCK));
        } else {
            let Event::Failed(FileId(0), failure) = event else { panic!("{event:?}") };
            assert_eq!(failure.errno(), Errno::EIO);
            assert_eq!(told, Err(Errno::EIO));
            assert_eq!(load.fetcher.progress().bytes_ready, 0);
        }
    }
}

/// A small tmpfs, unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(bytes: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let size = format!("size={bytes}");
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).unwrap();
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_fails_the_reader_and_a_later_read_tries_again() {
    let disk = SmallDisk::new(8 * BLOCK);
    let store = open_store(disk.0.path(), &[BLOCK]);
    let filler = disk.0.path().join("filler");
    let full = std::fs::write(&filler, vec![1; 9 << 21]).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(Errno::ENOSPC as i32));
    let load = Load::start_on(store, 1, 1, Origin::new(1 << 20, plain));
    assert_eq!(load.demand(0, 0, 1).recv().unwrap(), Err(Errno::EIO));
    assert_eq!(load.origin.requests().len(), 1);
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(load.demand(0, 0, 1).recv().unwrap(), Ok(()));
    drop(load);
}

#[test]
fn drain_lets_blocks_in_flight_arrive_and_fails_the_rest() {
    let (open, held) = hold();
    let origin = Origin::new(1 << 20, move |_| held.clone());
    let load = Load::start(1, 1, &[4 * BLOCK], origin);
    let flying = load.demand(0, 0, 1);
    load.origin.await_requests(1);
    let waiting = load.demand(0, BLOCK, BLOCK + 1);
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| load.fetcher.drain(Duration::from_secs(60)));
        // Refused from the moment the drain has begun; until then it waits like any other.
        let refused = || load.demand(0, 2 * BLOCK, 3 * BLOCK).try_recv() == Ok(Err(Errno::EIO));
        while !refused() {
            std::thread::yield_now();
        }
        open.send(true).unwrap();
        drain.join().unwrap();
    });
    assert_eq!(flying.recv().unwrap(), Ok(()));
    assert_eq!(waiting.recv().unwrap(), Err(Errno::EIO));
    load.check_bytes(0, ByteRange::new(0, BLOCK));
    assert_eq!(load.demand(0, 0, BLOCK).recv().unwrap(), Ok(()));
    assert_eq!(load.origin.requests().len(), 1);
}

#[test]
fn drain_cuts_off_what_does_not_end_in_time() {
    let (_open, held) = hold();
    let load = Load::start(2, 2, &[4 * BLOCK], Origin::new(1, move |_| held.clone()));
    let flying = load.demand(0, 0, 4 * BLOCK);
    load.origin.await_requests(4);
    load.fetcher.drain(Duration::ZERO);
    assert_eq!(flying.recv().unwrap(), Err(Errno::EIO));
}

#[test]
fn a_file_that_was_full_but_not_sealed_is_sealed_at_start() {
    let dir = TempDir::new().unwrap();
    let store = open_store(dir.path(), &[BLOCK]);
    let file = store.file(FileId(0)).unwrap();
    let mut bytes = vec![0; 2 << 20];
    content("part-0", 0, &mut bytes);
    file.write_at(0, &bytes).unwrap();
    file.commit(crate::base::BlockIndex(0), crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, &bytes));
    let mut load = Load::start_on(Arc::clone(&store), 1, 1, Origin::new(1, plain));
    assert!(matches!(load.event(), Event::Complete(FileId(0))));
    assert!(load.origin.requests().is_empty());
}

#[test]
fn unknown_files_and_empty_ranges_are_answered_at_once() {
    let load = Load::start(1, 1, &[BLOCK], Origin::new(1, plain));
    assert_eq!(load.demand(7, 0, 1).try_recv(), Ok(Err(Errno::EIO)));
    assert_eq!(load.demand(0, BLOCK, 2 * BLOCK).try_recv(), Ok(Ok(())));
}

#[test]
fn a_plan_can_be_waited_for() {
    let load = Load::start(1, 1, &[3 * BLOCK], Origin::new(1 << 20, plain));
    let (tell, told) = mpsc::channel();
    let done = Box::new(move |result: Result<(), Failure>| tell.send(result.is_ok()).unwrap());
    load.fetcher.plan_then(FileId(0), ByteRange::new(0, 2 * BLOCK), done);
    assert!(told.recv().unwrap());
    load.check_bytes(0, ByteRange::new(0, 2 * BLOCK));
    assert!(!load.store.file(FileId(0)).unwrap().ready().is_full());
}
