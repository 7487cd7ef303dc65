//! How many blocks are sent at a time, to each peer and altogether, and how fast. Places are given in the order they
//! were asked for; a few are kept for blocks that readers wait for, so that those never queue behind blocks that are
//! only fetched ahead. A peer that asks for more than its share is told to come again.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::id::Name;

/// And blocks that readers wait for, besides.
const URGENT: usize = 4;
/// Blocks queued or sent for one peer at a time: what it asks for, and as much again for its readers.
const PER_PEER: u32 = 8;
/// Blocks queued for all; more are turned away.
const MOST_QUEUED: u32 = 256;

/// The places, and the bucket that bounds the speed.
#[derive(Debug)]
pub(super) struct Sends {
    ahead: Arc<Semaphore>,
    urgent: Arc<Semaphore>,
    /// Waiting for a place or being sent.
    queued: AtomicU32,
    /// Blocks and bytes sent in full.
    sent: (AtomicU64, AtomicU64),
    by_peer: Mutex<HashMap<Name, u32>>,
    rate: Option<Mutex<Bucket>>,
    /// Nothing is sent any more but what is queued.
    closed: AtomicBool,
    /// A place was given back.
    ended: Notify,
}

/// Bytes that may be sent now; may be owed.
#[derive(Debug)]
struct Bucket {
    bytes_a_second: u64,
    /// When everything sent so far is paid for.
    paid: Instant,
}

/// A place in the queue, and then among the sends, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    sends: Arc<Sends>,
    peer: Name,
    urgent: bool,
    permit: Option<OwnedSemaphorePermit>,
}

impl Sends {
    /// `slots` is the most blocks at a time, `rate` the most bytes a second.
    pub(super) fn new(slots: NonZeroU32, rate: Option<u64>) -> Self {
        Self {
            ahead: Arc::new(Semaphore::new(slots.get() as usize)),
            urgent: Arc::new(Semaphore::new(URGENT)),
            queued: AtomicU32::new(0),
            sent: Default::default(),
            closed: AtomicBool::new(false),
            ended: Notify::new(),
            by_peer: Mutex::default(),
            rate: rate.map(|bytes_a_second| {
                Mutex::new(Bucket { bytes_a_second: bytes_a_second.max(1), paid: Instant::now() })
            }),
        }
    }

    /// Blocks that wait to be sent or are being sent.
    pub(super) fn queue(&self) -> u32 {
        self.queued.load(Ordering::Relaxed)
    }

    /// Blocks and bytes that were sent in full.
    pub(super) fn sent(&self) -> (u64, u64) {
        (self.sent.0.load(Ordering::Relaxed), self.sent.1.load(Ordering::Relaxed))
    }

    /// A block of so many bytes has been sent in full.
    pub(super) fn count(&self, bytes: u64) {
        self.sent.0.fetch_add(1, Ordering::Relaxed);
        self.sent.1.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A place for a block of this peer, unless it or all have too many.
    pub(super) fn place(self: &Arc<Self>, peer: &Name, urgent: bool) -> Option<Place> {
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        let mut by_peer = lock(&self.by_peer);
        let count = by_peer.entry(peer.clone()).or_default();
        if *count >= PER_PEER || self.queue() >= MOST_QUEUED {
            return None;
        }
        *count += 1;
        self.queued.fetch_add(1, Ordering::Relaxed);
        Some(Place { sends: Arc::clone(self), peer: peer.clone(), urgent, permit: None })
    }

    /// Gives no more places, and waits until those given are free again, for `most` at most.
    pub(super) async fn finish(&self, most: Duration) {
        self.closed.store(true, Ordering::Release);
        let idle = async {
            loop {
                let ended = self.ended.notified();
                if self.queue() == 0 {
                    return;
                }
                ended.await;
            }
        };
        if tokio::time::timeout(most, idle).await.is_err() {
            tracing::debug!(queue = self.queue(), "blocks that peers wait for are not sent to their end");
        }
    }

    /// Waits until `bytes` more may be sent.
    pub(super) async fn pace(&self, bytes: usize) {
        let Some(rate) = &self.rate else { return };
        let wait = lock(rate).pay(bytes as u64, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

impl Bucket {
    /// How long to wait before sending `bytes`.
    fn pay(&mut self, bytes: u64, now: Instant) -> Duration {
        let begin = self.paid.max(now);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_a_second);
        self.paid = begin + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        begin.saturating_duration_since(now)
    }
}

impl Place {
    /// Waits for the turn.
    pub(super) async fn wait(&mut self) {
        let ahead = Arc::clone(&self.sends.ahead).acquire_owned();
        let permit = if self.urgent {
            tokio::select! {
                permit = Arc::clone(&self.sends.urgent).acquire_owned() => permit,
                permit = ahead => permit,
            }
        } else {
            ahead.await
        };
        // The semaphores are never closed.
        self.permit = permit.ok();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sends.queued.fetch_sub(1, Ordering::Relaxed);
        let mut by_peer = lock(&self.sends.by_peer);
        if let Some(count) = by_peer.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                by_peer.remove(&self.peer);
            }
        }
        self.sends.ended.notify_waiters();
    }
}

/// Holders leave counts whole.
fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: NonZeroU32 = NonZeroU32::new(16).unwrap();

    #[tokio::test]
    async fn a_peer_has_its_share_and_urgent_blocks_their_places() {
        let sends = Arc::new(Sends::new(SLOTS, None));
        let names: Vec<Name> = (0..3).map(|at| format!("n{at}").parse().unwrap()).collect();
        let mut held = Vec::new();
        for name in &names {
            let places: Vec<_> = (0..=PER_PEER).filter_map(|_| sends.place(name, false)).collect();
            assert_eq!(places.len(), PER_PEER as usize);
            held.extend(places);
        }
        assert_eq!(sends.queue(), 3 * PER_PEER);
        for place in held.iter_mut().take(SLOTS.get() as usize) {
            place.wait().await;
        }
        let urgent: Name = "urgent".parse().unwrap();
        for _ in 0..URGENT {
            let mut place = sends.place(&urgent, true).unwrap();
            place.wait().await;
            held.push(place);
        }
        held.clear();
        assert_eq!((sends.queue(), lock(&sends.by_peer).len()), (0, 0));
    }

    #[tokio::test]
    async fn the_end_waits_for_what_is_being_sent_and_takes_nothing_new() {
        let sends = Arc::new(Sends::new(SLOTS, None));
        let name: Name = "n".parse().unwrap();
        let place = sends.place(&name, false).unwrap();
        let mut finish = std::pin::pin!(sends.finish(Duration::from_secs(600)));
        let mut poll = async || {
            std::future::poll_fn(|cx| std::task::Poll::Ready(finish.as_mut().poll(cx).is_ready())).await
        };
        assert!(!poll().await);
        assert!(sends.place(&name, true).is_none());
        drop(place);
        assert!(poll().await);
    }

    #[test]
    fn the_bucket_lets_so_many_bytes_through_a_second() {
        let now = Instant::now();
        let mut bucket = Bucket { bytes_a_second: 1000, paid: now };
        let waits = [500, 500, 500].map(|bytes| bucket.pay(bytes, now).as_millis());
        assert_eq!(waits, [0, 500, 1000]);
        assert_eq!(bucket.pay(1, now + Duration::from_secs(9)).as_millis(), 0);
    }
}
