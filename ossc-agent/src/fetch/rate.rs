//! How fast one connection is, and so how much it should be asked for at once. Pure. Large requests are few
//! (OSS counts requests), short ones let demand in soon: an extent is what the connection moves in
//! `EXTENT_TIME`, whatever its speed.

use std::time::Duration;

/// How long one request should keep its connection busy. A demand that arrives finds a free connection after
/// at most about this time (or one block's), while at 100 Gbit/s with 32 MiB extents only some 400 requests a
/// second are sent, far from OSS's limit of 10 000 an account (2 000 for sequential keys).
const EXTENT_TIME: Duration = Duration::from_millis(100);

/// A request is not called a crawl before this time ...
const CRAWL_TIME: Duration = Duration::from_secs(1);
/// ... and then is one below this part of the connection's speed.
const CRAWL: u64 = 8;

/// Moving average of a connection's speed, its reply times included.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// Bytes in `EXTENT_TIME`; 0 before the first measurement.
    reach: u64,
}

impl Rate {
    /// Bytes to ask for next; 0 for a new connection, which begins with the least there is.
    pub(super) fn reach(&self) -> u64 {
        self.reach
    }

    /// What this connection must not fall below in its next request.
    pub(super) fn floor(&self) -> Floor {
        Floor { reach: self.reach / CRAWL }
    }

    /// A request moved `bytes` in `took`. Half of what was known is kept: one odd request does not decide.
    pub(super) fn record(&mut self, bytes: u64, took: Duration) {
        let now = u128::from(bytes) * EXTENT_TIME.as_nanos() / took.as_nanos().max(1);
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        self.reach = if self.reach == 0 { now } else { self.reach / 2 + now / 2 };
    }
}

/// How slow a request may become before it is worth another path, where there is one: a NIC that has slowed down,
/// on which a long request begun at full speed would last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Floor {
    /// Bytes in `EXTENT_TIME`; 0 = any speed will do.
    reach: u64,
}

impl Floor {
    /// Any speed will do.
    pub(super) const NONE: Self = Self { reach: 0 };

    /// Whether `bytes` in `took` is a crawl. A request is given some time to begin with.
    pub(super) fn is_crawl(self, bytes: u64, took: Duration) -> bool {
        self.reach > 0
            && took > CRAWL_TIME
            && u128::from(bytes) * EXTENT_TIME.as_nanos() < u128::from(self.reach) * took.as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crawl_is_far_below_what_was_known() {
        let mut rate = Rate::default();
        assert!(!rate.floor().is_crawl(0, Duration::from_secs(9)), "nothing known");
        rate.record(8 << 20, EXTENT_TIME);
        let floor = rate.floor();
        assert!(!floor.is_crawl(0, CRAWL_TIME));
        assert!(floor.is_crawl(19 << 20, Duration::from_secs(2)));
        assert!(!floor.is_crawl(21 << 20, Duration::from_secs(2)));
        assert!(!Floor::NONE.is_crawl(0, Duration::from_secs(9)));
    }

    #[test]
    fn follows_the_measured_speed() {
        let mut rate = Rate::default();
        assert_eq!(rate.reach(), 0);
        rate.record(4 << 20, Duration::from_millis(200));
        assert_eq!(rate.reach(), 2 << 20);
        rate.record(4 << 20, Duration::from_millis(100));
        assert_eq!(rate.reach(), 3 << 20);
        rate.record(u64::MAX, Duration::ZERO);
        assert!(rate.reach() > 1 << 60);
    }
}
