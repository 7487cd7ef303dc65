//! The queue under real threads, many times over; all interleavings of a few steps: `interleaving`.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::mpsc;
use std::time::Duration;

use crate::base::{BlockIndex, BlockSize, ByteRange, FileId, Lane, Layout};
use crate::fetch::Failure;
use crate::fetch::lanes::Lanes;
use crate::fetch::queue::{Queue, Work};

const BLOCKS: u32 = 2000;
/// Far longer than any answer takes; a lost wake-up never comes.
const LOST: Duration = Duration::from_secs(60);

/// Takes work from four tasks on one thread, and fetches it in no time.
fn consume(queue: &Queue) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let task = || async {
        loop {
            match queue.next(0).await {
                Work::Fetch(extent, _) => {
                    for block in extent.blocks {
                        queue.block_ready(extent.file, BlockIndex(block));
                    }
                    tokio::task::yield_now().await;
                }
                Work::Seal(_) => {}
                Work::Stop => return,
            }
        }
    };
    runtime.block_on(async { tokio::join!(task(), task(), task(), task()) });
}

#[test]
fn no_wakeup_is_lost_and_no_waiter_forgotten() {
    let mut lanes = Lanes::new(NonZeroU32::new(12).unwrap());
    let size = u64::from(BLOCKS) * BlockSize::MIN.bytes();
    lanes.add_file(Layout::new(size, BlockSize::MIN).unwrap(), |_| false);
    let queue = Queue::new(lanes, VecDeque::new());
    // One reader after the other asks for a few blocks, so that the tasks go idle again and again.
    let read = |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..BLOCKS / 2 {
            let start = rng.u64(..size);
            let range = ByteRange::new(start, start + rng.u64(1..5) * BlockSize::MIN.bytes());
            let (tell, told) = mpsc::channel();
            let done = Box::new(move |result: Result<(), Failure>| tell.send(result.is_ok()).unwrap());
            queue.want(FileId(0), range, Lane::Demand, || true, done);
            assert_eq!(told.recv_timeout(LOST), Ok(true));
        }
    };
    std::thread::scope(|scope| {
        let consumers: Vec<_> = (0..3).map(|_| scope.spawn(|| consume(&queue))).collect();
        let readers: Vec<_> = (0..4).map(|seed| scope.spawn(move || read(seed))).collect();
        let read = readers.into_iter().map(std::thread::ScopedJoinHandle::join).all(|ended| ended.is_ok());
        queue.close();
        assert!(read, "a reader was not answered");
        consumers.into_iter().for_each(|consumer| consumer.join().unwrap());
    });
    assert_eq!(queue.progress().readers, 0);
}
