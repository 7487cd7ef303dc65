//! Whether a peer is worth asking, and how much may be read from the origin out of turn. Pure: the time comes in.

use std::time::{Duration, Instant};

use crate::base::Backoff;

/// Not asked after a failure for 1 s, doubling to 30 s.
const REST: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// Failures in a row after which blocks are placed elsewhere: some 15 s in which nothing worked.
const GIVEN_UP: u32 = 5;

/// One peer's breaker: opened by a failure, closed by any success.
#[derive(Debug, Clone, Default)]
pub struct Breaker {
    failures: u32,
    until: Option<Instant>,
    /// It answers, but blocks do not come from it: only one that does closes the breaker.
    crawls: bool,
}

impl Breaker {
    /// A connect, a request or a body failed.
    pub fn failed(&mut self, now: Instant) {
        // Requests that were under way together count once.
        if self.until.is_some_and(|until| now < until) {
            return;
        }
        self.until = Some(now + REST.ceiling(self.failures));
        self.failures += 1;
    }

    /// A block came far too slowly.
    pub fn crawled(&mut self, now: Instant) {
        self.failed(now);
        self.crawls = true;
    }

    /// It answered.
    pub fn answered(&mut self) {
        if !self.crawls {
            self.succeeded();
        }
    }

    /// A block came.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Whether it may be asked.
    #[must_use]
    pub fn is_closed(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// Whether its blocks are to be read by others.
    #[must_use]
    pub fn has_given_up(&self) -> bool {
        self.failures >= GIVEN_UP
    }
}

/// Bytes a node may read from the origin although another one should: 1 % of the load, so that trouble among N
/// nodes costs N % of the model and not N models. Comes back slowly, so that a load always ends.
#[derive(Debug, Clone)]
pub struct EscapeBudget {
    left: u64,
    most: u64,
    /// When it was last topped up.
    at: Instant,
}

/// Time in which the whole budget comes back.
const REFILL: Duration = Duration::from_secs(60);

impl EscapeBudget {
    /// For a load of so many bytes, with room for one block at least.
    #[must_use]
    pub fn new(load: u64, block: u64, now: Instant) -> Self {
        let most = (load / 100).max(block);
        Self { left: most, most, at: now }
    }

    /// Takes `bytes` if there are so many.
    pub fn take(&mut self, bytes: u64, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at);
        let back = u128::from(self.most) * since.as_millis() / REFILL.as_millis();
        if back > 0 {
            self.left = self.left.saturating_add(u64::try_from(back).unwrap_or(u64::MAX)).min(self.most);
            self.at = now;
        }
        let enough = self.left >= bytes;
        if enough {
            self.left -= bytes;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_opens_longer_each_time_and_closes_at_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut breaker = Breaker::default();
        breaker.failed(at(0));
        breaker.failed(at(0));
        assert!(!breaker.is_closed(at(0)) && breaker.is_closed(at(1)));
        breaker.failed(at(1));
        assert!(!breaker.is_closed(at(2)) && breaker.is_closed(at(3)));
        breaker.succeeded();
        assert!(breaker.is_closed(at(2)));
        for round in 0..5 {
            assert!(!breaker.has_given_up());
            breaker.failed(at(100 * round));
        }
        assert!(breaker.has_given_up());
    }

    #[test]
    fn answers_do_not_make_up_for_blocks_that_do_not_come() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.failed(now);
        breaker.answered();
        assert!(breaker.is_closed(now));
        breaker.crawled(now);
        breaker.answered();
        assert!(!breaker.is_closed(now));
        breaker.succeeded();
        assert!(breaker.is_closed(now));
    }

    #[test]
    fn the_budget_is_one_percent_and_comes_back_slowly() {
        let start = Instant::now();
        let mut budget = EscapeBudget::new(1000, 4, start);
        assert!(budget.take(4, start) && budget.take(6, start) && !budget.take(1, start));
        assert!(!budget.take(6, start + REFILL / 2) && budget.take(5, start + REFILL / 2));
        assert!(!budget.take(11, start + REFILL * 10));
        assert!(EscapeBudget::new(10, 4, start).take(4, start));
    }
}
