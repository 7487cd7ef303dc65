//! Waiting times between tries: exponential with full jitter, as the OSS SDKs do
//! (alibabacloud_oss_v2/retry: `rand[0,1) * min(base * 2^attempt, cap)`).

use std::time::Duration;

/// A schedule of waits. Pure: the caller brings the randomness.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
}

impl Backoff {
    /// Waits grow from `base`, doubling, up to `cap`.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap }
    }

    /// The longest wait before retry number `attempt` (0 for the first retry).
    #[must_use]
    pub fn ceiling(self, attempt: u32) -> Duration {
        self.base.saturating_mul(2u32.saturating_pow(attempt)).min(self.cap)
    }

    /// The wait before retry number `attempt`, for a `jitter` in `0.0..1.0`.
    #[must_use]
    pub fn wait(self, attempt: u32, jitter: f64) -> Duration {
        self.ceiling(attempt).mul_f64(jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap() {
        let b = Backoff::new(Duration::from_millis(200), Duration::from_secs(20));
        assert_eq!(b.ceiling(0), Duration::from_millis(200));
        assert_eq!(b.ceiling(3), Duration::from_millis(1600));
        assert_eq!(b.ceiling(40), Duration::from_secs(20));
        assert_eq!(b.wait(3, 0.5), Duration::from_millis(800));
    }
}
