//! When to look again at a stopped process that has not settled, or cannot be continued: at once while it is on its way,
//! ever later while nothing about it changes. Pure; `stops` brings the time.

use std::time::{Duration, Instant};

/// The longest time between two looks.
const LONGEST: Duration = Duration::from_millis(100);
/// The next look is after this part of the time for which nothing has changed: most processes have settled within
/// microseconds, and what comes late is noticed by a quarter later at most.
const PART: u32 = 4;

/// Of one process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    unchanged_since: Instant,
    again_at: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { unchanged_since: now, again_at: now }
    }

    /// Something about the process is new.
    pub(super) fn changed(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    /// It was looked at, and has to be again.
    pub(super) fn looked(&mut self, now: Instant) {
        let unchanged = now.saturating_duration_since(self.unchanged_since);
        self.again_at = now + (unchanged / PART).min(LONGEST);
    }

    /// When.
    pub(super) fn again_at(self) -> Instant {
        self.again_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks in the given time at a process about which nothing changes, each taking 20 us.
    fn looks(time: Duration) -> u32 {
        let start = Instant::now();
        let (mut pace, mut now, mut looks) = (Pace::new(start), start, 0);
        while now < start + time {
            now = pace.again_at().max(now + Duration::from_micros(20));
            pace.looked(now);
            looks += 1;
        }
        looks
    }

    #[test]
    fn looks_are_frequent_at_first_and_rare_in_the_end() {
        assert!(looks(Duration::from_micros(200)) >= 5);
        assert!(looks(Duration::from_millis(10)) < 40);
        let (minute, two) = (looks(Duration::from_secs(60)), looks(Duration::from_secs(120)));
        assert!(two - minute <= 601, "{minute} {two}");
        assert!(looks(Duration::from_secs(3600)) > 30_000, "looks go on");
    }

    #[test]
    fn what_is_new_is_looked_at_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let later = start + Duration::from_secs(10);
        pace.looked(later);
        assert_eq!(pace.again_at(), later + LONGEST);
        pace.changed(later);
        assert_eq!(pace.again_at(), later);
    }
}
