//! How fast one connection is, and so how much it should be asked for at once. Pure. Large requests are few
//! (OSS counts requests), short ones let demand in soon: an extent is what the connection moves in
//! `EXTENT_TIME`, whatever its speed.

use std::time::Duration;

/// How long one request should keep its connection busy. A demand that arrives finds a free connection after
/// at most about this time (or one block's), while at 100 Gbit/s with 32 MiB extents only some 400 requests a
/// second are sent, far from OSS's limit of 10 000 an account (2 000 for sequential keys).
const EXTENT_TIME: Duration = Duration::from_millis(100);

/// When a request has fallen so far behind those through another NIC that it goes on there. A limit that all NICs
/// share makes all of them slow, and is no reason to leave one.
pub(super) struct Behind {
    /// It has been given this time to show its speed, ...
    after: Duration,
    /// ... moves less than this part of what a connection through another NIC does, ...
    part: u64,
    /// ... and would take longer than this to its end.
    wait: Duration,
}

/// Through a NIC that has slowed down, or is far slower than the others, a block would be waited for at any time.
pub(super) const CRAWL: Behind =
    Behind { after: Duration::from_secs(1), part: 8, wait: Duration::from_secs(1) };

/// Once nothing is left to begin, the whole load waits for the last requests (BitTorrent's endgame; here no byte is
/// asked for twice): what would come in half of the time elsewhere, and later than a new connection costs.
pub(super) const ENDGAME: Behind =
    Behind { after: Duration::from_millis(100), part: 2, wait: Duration::from_millis(200) };

impl Behind {
    /// Whether a request that has moved `bytes` in `took`, with `left` to come, may be behind: the rest of the
    /// question costs more.
    pub(super) fn is_possible(&self, bytes: u64, left: u64, took: Duration) -> bool {
        let wide = u128::from;
        took > self.after && wide(left) * took.as_nanos() > wide(bytes) * self.wait.as_nanos()
    }

    /// Whether it is, where a connection through another NIC moved `others` in the same time.
    pub(super) fn holds(&self, bytes: u64, left: u64, took: Duration, others: u64) -> bool {
        self.is_possible(bytes, left, took) && bytes < others / self.part
    }
}

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

    /// A request moved `bytes` in `took`. Half of what was known is kept: one odd request does not decide.
    pub(super) fn record(&mut self, bytes: u64, took: Duration) {
        let now = u128::from(bytes) * EXTENT_TIME.as_nanos() / took.as_nanos().max(1);
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        self.reach = if self.reach == 0 { now } else { self.reach / 2 + now / 2 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_left_to_nics_that_are_twice_as_fast() {
        let slow = |bytes: u64, left: u64, millis, others: u64| {
            ENDGAME.holds(bytes << 10, left << 10, Duration::from_millis(millis), others << 10)
        };
        assert!(slow(99, 300, 150, 200));
        assert!(!slow(100, 300, 150, 200));
        assert!(!slow(99, 300, 100, 200), "it has just begun");
        assert!(!slow(99, 132, 150, 200), "nearly there");
        assert!(slow(0, 1, 150, 2));
        assert!(!slow(0, 1, 150, 0), "nor do others move");
    }

    #[test]
    fn a_crawl_is_far_below_what_others_do_and_far_from_its_end() {
        let crawls = |bytes: u64, left: u64, seconds, others: u64| {
            CRAWL.holds(bytes << 20, left << 20, Duration::from_secs(seconds), others << 20)
        };
        assert!(crawls(19, 100, 2, 160));
        assert!(!crawls(20, 100, 2, 160));
        assert!(!crawls(19, 100, 1, 160), "it has just begun");
        assert!(!crawls(19, 9, 2, 160), "nearly there");
        assert!(crawls(0, 1, 2, 8));
        assert!(!crawls(0, 1, 9, 0), "nor do others move");
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
