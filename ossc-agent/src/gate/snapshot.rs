//! What the gate has done so far, in numbers, for status and metrics. Written by the gate's thread alone and
//! read by anyone: plain counters without any ordering between them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Accesses of other processes judged.
    pub accesses: u64,
    /// Readers waiting now.
    pub held: u64,
    /// The most that ever waited at one time.
    pub most_held: u64,
    /// Readers that had to wait, ever.
    pub held_total: u64,
    /// Readers whose call was made to fail, ever.
    pub denied_total: u64,
    /// Time waited by all readers answered so far.
    pub waited: Duration,
    /// The longest of these waits.
    pub longest_wait: Duration,
    /// Whether the gate can no longer hear the kernel; readers then wait until the agent ends.
    pub broken: bool,
}

/// The living counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    accesses: AtomicU64,
    held: AtomicU64,
    most_held: AtomicU64,
    held_total: AtomicU64,
    denied_total: AtomicU64,
    waited_ns: AtomicU64,
    longest_wait_ns: AtomicU64,
    broken: AtomicBool,
}

impl Counters {
    pub(super) fn access(&self) {
        self.accesses.fetch_add(1, Relaxed);
    }

    pub(super) fn denied(&self) {
        self.denied_total.fetch_add(1, Relaxed);
    }

    pub(super) fn held(&self) {
        self.held_total.fetch_add(1, Relaxed);
        let now = self.held.fetch_add(1, Relaxed) + 1;
        self.most_held.fetch_max(now, Relaxed);
    }

    pub(super) fn released(&self, wait: Duration) {
        let wait = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.held.fetch_sub(1, Relaxed);
        self.waited_ns.fetch_add(wait, Relaxed);
        self.longest_wait_ns.fetch_max(wait, Relaxed);
    }

    pub(super) fn broken(&self) {
        self.broken.store(true, Relaxed);
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            accesses: self.accesses.load(Relaxed),
            held: self.held.load(Relaxed),
            most_held: self.most_held.load(Relaxed),
            held_total: self.held_total.load(Relaxed),
            denied_total: self.denied_total.load(Relaxed),
            waited: Duration::from_nanos(self.waited_ns.load(Relaxed)),
            longest_wait: Duration::from_nanos(self.longest_wait_ns.load(Relaxed)),
            broken: self.broken.load(Relaxed),
        }
    }
}
