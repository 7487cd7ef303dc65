//! Whose turn it is to write to a file, and over how many files the background spreads. Readers want one file
//! after the other, so the bandwidth goes to two files at a time; but the kernel lets one writer at a time
//! into a file, and where that, and not the network, is what connections wait for, another one is begun beside
//! them. Used by `transfer` for each piece and by `worker` for each extent; which files those are is up to `lanes`.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard};

use crate::base::FileId;

/// How much fetching, in time of connections, is looked at together: two or more extents (`rate`).
const WINDOW: Duration = Duration::from_millis(200);
/// How many files a load begins with, if there are threads for so many: finding out that one is too few would cost a
/// short load more than a reader of the first file loses, whose demands come first anyway.
const FIRST_WIDTH: u32 = 2;
/// One more file is begun when connections spent more than this part of their time waiting for a turn.
const TOO_MUCH: u32 = 10;

/// The turns of all files.
pub(super) struct Turns {
    /// By file. The kernel lets one writer at a time into a file anyway (`inode_lock` in
    /// `ext4_buffered_write_iter`, `xfs_file_buffered_write`, `btrfs_buffered_write`) and lets the others spin;
    /// here the thread serves its other connections meanwhile.
    files: Vec<Mutex<()>>,
    /// How many files the background fills at once; never falls, so that a load does not swing.
    width: AtomicU32,
    /// More files than threads are never written at once.
    most: u32,
    /// Nanoseconds of this window: spent fetching, and of those waiting for a turn.
    fetched: AtomicU64,
    waited: AtomicU64,
}

impl Turns {
    pub(super) fn new(files: usize, threads: u32) -> Self {
        Self {
            files: (0..files).map(|_| Mutex::new(())).collect(),
            width: AtomicU32::new(FIRST_WIDTH.min(threads)),
            most: threads,
            fetched: AtomicU64::new(0),
            waited: AtomicU64::new(0),
        }
    }

    /// Waits for the turn to write to a file, and adds the wait to `waited`.
    pub(super) async fn of(&self, file: FileId, waited: &mut Duration) -> Option<MutexGuard<'_, ()>> {
        let turn = self.files.get(file.index())?;
        if let Ok(turn) = turn.try_lock() {
            return Some(turn);
        }
        let asked = Instant::now();
        let turn = turn.lock().await;
        *waited += asked.elapsed();
        Some(turn)
    }

    /// An extent was fetched in `took`, of which its pieces `waited` for their turns.
    pub(super) fn record(&self, took: Duration, waited: Duration) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let waited = self.waited.fetch_add(nanos(waited), Ordering::Relaxed).saturating_add(nanos(waited));
        let fetched = self.fetched.fetch_add(nanos(took), Ordering::Relaxed).saturating_add(nanos(took));
        if fetched < nanos(WINDOW) {
            return;
        }
        // Another thread may do the same at this moment; the one that counts too little decides nothing wrong.
        self.waited.store(0, Ordering::Relaxed);
        self.fetched.store(0, Ordering::Relaxed);
        let width = self.width();
        if waited.saturating_mul(u64::from(TOO_MUCH)) > fetched && width < self.most {
            self.width.store(width + 1, Ordering::Relaxed);
            tracing::debug!(files = width + 1, "writes wait for each other; filling one more file at once");
        }
    }

    /// How many files the background fills at once.
    pub(super) fn width(&self) -> u32 {
        self.width.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_only_while_turns_are_waited_for_and_never_wider_than_the_threads() {
        let turns = Turns::new(9, 3);
        let widths = [(200, 0), (200, 20), (100, 40), (100, 40), (200, 0), (900, 800), (900, 800)].map(
            |(took, waited)| {
                turns.record(Duration::from_millis(took), Duration::from_millis(waited));
                turns.width()
            },
        );
        assert_eq!(widths, [2, 2, 2, 3, 3, 3, 3]);
    }

    #[tokio::test]
    async fn a_wait_is_counted_and_a_free_turn_costs_none() {
        let turns = Turns::new(1, 1);
        let mut waited = Duration::ZERO;
        let held = turns.of(FileId(0), &mut waited).await;
        assert!(held.is_some() && waited.is_zero());
        let mut second = Box::pin(turns.of(FileId(0), &mut waited));
        assert!(
            std::future::poll_fn(|cx| std::task::Poll::Ready(second.as_mut().poll(cx).is_pending())).await
        );
        drop(held);
        assert!(second.await.is_some());
        assert!(!waited.is_zero());
    }
}
