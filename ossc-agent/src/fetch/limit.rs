//! The bandwidth limit, for machines that share their link: bytes a second of all connections together. Each piece
//! books its time in the order of asking, and each connection one piece at a time, so a demand waits behind at most
//! one piece of every other connection. The kernel's receive buffers are filled before that, once.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::sync::Lock;

/// Time that was not used can be used for so long: covers late wake-ups, so that the mean is exact.
const CATCH_UP: Duration = Duration::from_millis(50);

/// The limit, if there is one.
#[derive(Debug)]
pub(super) struct Limit {
    bytes_per_second: Option<NonZeroU64>,
    /// When the next piece may come.
    next: Lock<Instant>,
}

impl Limit {
    pub(super) fn new(bytes_per_second: Option<NonZeroU64>, now: Instant) -> Self {
        Self { bytes_per_second, next: Lock::new(now) }
    }

    /// Waits until `bytes` may be received.
    pub(super) async fn take(&self, bytes: u64) {
        let now = Instant::now();
        let start = self.book(bytes, now);
        if start > now {
            sleep_until(start.into()).await;
        }
    }

    fn book(&self, bytes: u64, now: Instant) -> Instant {
        let Some(rate) = self.bytes_per_second else { return now };
        self.next.with(|next| {
            let start = (*next).max(now.checked_sub(CATCH_UP).unwrap_or(now));
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
            // Far beyond any load; only to stay within what an Instant can say.
            *next = start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX >> 8));
            start
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_keep_the_mean_and_idle_time_is_lost() {
        let now = Instant::now();
        let limit = Limit::new(NonZeroU64::new(1000), now);
        let after = |millis| now + Duration::from_millis(millis);
        assert_eq!([100, 100, 100].map(|bytes| limit.book(bytes, now)), [now, after(100), after(200)]);
        assert_eq!(limit.book(100, after(310)), after(300), "a late wake-up is made good");
        assert_eq!(limit.book(100, after(5000)), after(4950), "idle time is not");
        assert_eq!(Limit::new(None, now).book(u64::MAX, now), now);
    }
}
