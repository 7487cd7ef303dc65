//! Numbers about the load: counted by `queue` once a block or request, read by the progress bar and metrics.

use std::time::Instant;

use crate::base::Lane;

/// The load at one moment. Two of them give a speed.
#[derive(Debug, Clone)]
pub struct Progress {
    /// When it was taken.
    pub at: Instant,
    /// Bytes of all files.
    pub bytes_total: u64,
    /// Bytes readers can have without waiting.
    pub bytes_ready: u64,
    /// What this run has done.
    pub counts: Counts,
    /// Demands not answered yet: calls of readers that are held.
    pub readers: usize,
}

/// Totals since the start of this run.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Bytes of blocks fetched. A block that was fetched again after a checksum mismatch counts twice.
    pub bytes_fetched: u64,
    /// The part of these that peers sent.
    pub bytes_from_peers: u64,
    /// Ranged GETs sent, retries included.
    pub requests: u64,
    /// Requests that were tried again.
    pub retries: u64,
    /// Replies that said to slow down (QPS or bandwidth limit); part of `retries`.
    pub slow_downs: u64,
    /// Blocks given up, after all tries.
    pub failures: u64,
    /// Blocks handed out for each of [`Lane::ALL`].
    begun: [u64; Lane::ALL.len()],
}

/// One lane at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneWork {
    /// The lane.
    pub lane: Lane,
    /// Missing blocks that it will fetch, none of which an earlier lane will.
    pub queued: u64,
    /// Blocks that it has begun to fetch in this run; one that failed and was begun again counts twice.
    pub begun: u64,
}

impl Counts {
    pub(super) fn handed_out(&mut self, lane: Lane, blocks: u32) {
        self.begun[lane as usize] += u64::from(blocks);
        self.requests += 1;
    }

    /// Each lane with what is `queued` in it.
    pub(super) fn lanes(&self, queued: [u64; Lane::ALL.len()]) -> [LaneWork; Lane::ALL.len()] {
        Lane::ALL.map(|lane| {
            let at = lane as usize;
            LaneWork { lane, queued: queued[at], begun: self.begun[at] }
        })
    }
}

impl Progress {
    /// Bytes fetched a second since `earlier`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a speed to look at")]
    pub fn speed_since(&self, earlier: &Self) -> f64 {
        let bytes = self.counts.bytes_fetched.saturating_sub(earlier.counts.bytes_fetched);
        let time = self.at.saturating_duration_since(earlier.at).as_secs_f64();
        if time > 0.0 { bytes as f64 / time } else { 0.0 }
    }
}
