//! What the gate has done so far, in numbers, and who waits at it now, for status and metrics. Written by the gate's
//! thread alone and read by anyone: plain counters without any ordering between them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::{ByteRange, FileId};
use crate::metrics::{Histogram, seconds};

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

/// A reader that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Its process, as the agent's pid namespace numbers it.
    pub pid: u32,
    /// The file; of a reader that an earlier agent left perhaps another one.
    pub file: FileId,
    /// The bytes it waits for.
    pub range: ByteRange,
    /// Since when.
    pub since: Instant,
}

/// The counts for whoever shows them; they outlive the gate.
#[derive(Debug, Clone, Default)]
pub struct Numbers(pub(super) Arc<Counters>);

impl Numbers {
    /// Counts so far.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.0.snapshot()
    }

    /// Readers that wait now, at most so many: those that have waited longest, and they first.
    #[must_use]
    pub fn waiting(&self, most: usize) -> Vec<Waiting> {
        self.0.waiting().values().take(most).copied().collect()
    }

    /// Times that readers were held, in seconds.
    #[must_use]
    pub fn hold_times(&self) -> Histogram {
        self.0.hold_times.clone()
    }
}

/// The living counts.
#[derive(Debug)]
pub(super) struct Counters {
    accesses: AtomicU64,
    held: AtomicU64,
    most_held: AtomicU64,
    held_total: AtomicU64,
    denied_total: AtomicU64,
    waited_ns: AtomicU64,
    longest_wait_ns: AtomicU64,
    broken: AtomicBool,
    /// In the order in which they came. Its lock is taken when a reader begins to wait and when it goes.
    waiting: Mutex<BTreeMap<u64, Waiting>>,
    hold_times: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            accesses: zero(),
            held: zero(),
            most_held: zero(),
            held_total: zero(),
            denied_total: zero(),
            waited_ns: zero(),
            longest_wait_ns: zero(),
            broken: AtomicBool::default(),
            waiting: Mutex::default(),
            hold_times: seconds(),
        }
    }
}

impl Counters {
    pub(super) fn access(&self) {
        self.accesses.fetch_add(1, Relaxed);
    }

    pub(super) fn denied(&self) {
        self.denied_total.fetch_add(1, Relaxed);
    }

    /// A reader begins to wait; gives the number by which it is told of when it goes.
    pub(super) fn held(&self, reader: Waiting) -> u64 {
        let number = self.held_total.fetch_add(1, Relaxed);
        let now = self.held.fetch_add(1, Relaxed) + 1;
        self.most_held.fetch_max(now, Relaxed);
        self.waiting().insert(number, reader);
        number
    }

    pub(super) fn released(&self, number: u64, wait: Duration) {
        self.waiting().remove(&number);
        self.hold_times.observe(wait.as_secs_f64());
        let wait = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.held.fetch_sub(1, Relaxed);
        self.waited_ns.fetch_add(wait, Relaxed);
        self.longest_wait_ns.fetch_max(wait, Relaxed);
    }

    /// Each change of the map is whole, so a panic elsewhere leaves it right.
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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
