//! Whether and when a request is tried again. Pure: the caller brings the kind of failure and the randomness.
//!
//! Two schedules, after the OSS clients: ordinary failures (broken connection, 5xx, short body) wait with full
//! jitter as the SDKs do, and a request that got at least one block further starts counting anew; "slow down"
//! replies (QPS and bandwidth limits) wait longer, and only their sum is bounded, as in ossfs 2.

use std::time::Duration;

use crate::base::Backoff;

/// The bounds of both schedules; tests use a fast one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// Tries of one request that made no progress, the first one included.
    pub(super) tries: u32,
    /// Waits between them.
    pub(super) pause: Backoff,
    /// Waits after "slow down".
    pub(super) slow_pause: Backoff,
    /// Sum of the waits after "slow down" of one request.
    pub(super) slow_total: Duration,
    /// How long planned and background work leaves a file alone after a failure that its retries did not get
    /// over.
    pub(super) rest: Duration,
}

impl Default for Policy {
    /// 8 tries over about 25 s: as patient as a load can be that a reader waits for; base and cap of the SDKs
    /// (`alibabacloud_oss_v2/retry`: 0.2 s, 20 s). "Slow down": from 1 s, 60 s in sum (ossfs 2's request
    /// timeout).
    fn default() -> Self {
        Self {
            tries: super::TRIES,
            pause: Backoff::new(Duration::from_millis(200), Duration::from_secs(20)),
            slow_pause: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            slow_total: Duration::from_secs(60),
            rest: super::RETRY_PAUSE,
        }
    }
}

/// How often one request has been tried.
#[derive(Debug)]
pub(super) struct Retry {
    policy: Policy,
    failures: u32,
    slow_downs: u32,
    slow_waited: Duration,
}

impl Retry {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, failures: 0, slow_downs: 0, slow_waited: Duration::ZERO }
    }

    /// A block has arrived: the request works, only its connection does not last.
    pub(super) fn progressed(&mut self) {
        *self = Self::new(self.policy);
    }

    /// How long to wait before trying again after an ordinary failure, if it is to be tried again.
    pub(super) fn after_failure(&mut self, jitter: f64) -> Option<Duration> {
        self.failures += 1;
        (self.failures < self.policy.tries).then(|| self.policy.pause.wait(self.failures - 1, jitter))
    }

    /// The same after a reply that says "slow down". At least half of each wait is kept, so that the requests of
    /// many connections thin out and do not only mix.
    pub(super) fn after_slow_down(&mut self, jitter: f64) -> Option<Duration> {
        let wait = self.policy.slow_pause.wait(self.slow_downs, 0.5 + jitter / 2.0);
        let left = self.policy.slow_total.saturating_sub(self.slow_waited);
        self.slow_downs = self.slow_downs.saturating_add(1);
        self.slow_waited += wait.min(left);
        (!left.is_zero()).then(|| wait.min(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_failures_are_counted_until_progress() {
        let mut retry = Retry::new(Policy::default());
        let waits: Vec<_> =
            std::iter::from_fn(|| retry.after_failure(1.0)).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 12_800]);
        retry.progressed();
        assert_eq!(retry.after_failure(0.5), Some(Duration::from_millis(100)));
    }

    #[test]
    fn slow_downs_are_bounded_by_their_sum_alone() {
        let mut retry = Retry::new(Policy::default());
        let waits: Vec<_> =
            std::iter::from_fn(|| retry.after_slow_down(1.0)).map(|wait| wait.as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 29]);
        let mut retry = Retry::new(Policy::default());
        assert_eq!(retry.after_slow_down(0.0), Some(Duration::from_millis(500)));
        assert_eq!(retry.after_failure(0.0), Some(Duration::ZERO));
    }
}
