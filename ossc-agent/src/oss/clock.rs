//! The time OSS believes it is. Signatures and the expiry of credentials are judged by the server's clock,
//! and it refuses requests that are more than 15 minutes off (`RequestTimeTooSkewed`). After such a reply
//! its `Date` header gives the offset, which all connections of a client share from then on.
//! The machine's own clock is never changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// The last time an HTTP date can write, 9999-12-31T23:59:59Z, since the epoch; `httpdate` takes none beyond.
const LAST_HTTP_DATE: Duration = Duration::from_secs(253_402_300_799);

/// The server's clock as far as known; clones share the offset.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    /// Server time minus own time.
    offset_seconds: Arc<AtomicI64>,
}

impl Clock {
    /// The server's time now.
    pub(super) fn now(&self) -> SystemTime {
        shift(SystemTime::now(), self.offset_seconds())
    }

    /// The offset in use; a signature made under another one is not reused.
    pub(super) fn offset_seconds(&self) -> i64 {
        self.offset_seconds.load(Ordering::Relaxed)
    }

    /// Takes the server's time from the `Date` header of a reply just received. False when the header
    /// cannot be read, so that signing again would not help.
    pub(super) fn correct(&self, date: &str) -> bool {
        let Ok(server) = httpdate::parse_http_date(date) else { return false };
        let seconds = offset(server, SystemTime::now());
        self.offset_seconds.store(seconds, Ordering::Relaxed);
        tracing::warn!(
            offset_seconds = seconds,
            "the clock of this machine disagrees with OSS; requests are signed with the time of OSS"
        );
        true
    }
}

/// Whole seconds from `own` to `server`.
pub(super) fn offset(server: SystemTime, own: SystemTime) -> i64 {
    match server.duration_since(own) {
        Ok(ahead) => i64::try_from(ahead.as_secs()).unwrap_or(i64::MAX),
        Err(behind) => i64::try_from(behind.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    }
}

/// `time` moved by a number of seconds, but not out of the years that HTTP dates can write.
fn shift(time: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    let moved = if seconds < 0 { time.checked_sub(by) } else { time.checked_add(by) };
    moved.unwrap_or(time).clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + LAST_HTTP_DATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_and_shift_undo_each_other() {
        let own = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for seconds in [-3600, 0, 7200] {
            assert_eq!(offset(shift(own, seconds), own), seconds);
        }
        for seconds in [i64::MIN, -2_000_000, 253_402_300_799, i64::MAX] {
            httpdate::fmt_http_date(shift(own, seconds));
        }
    }

    #[test]
    fn takes_the_server_date_and_refuses_nonsense() {
        let clock = Clock::default();
        assert!(!clock.correct("yesterday"));
        assert_eq!(clock.offset_seconds(), 0);
        let server = SystemTime::now() + Duration::from_secs(7200);
        assert!(clock.clone().correct(&httpdate::fmt_http_date(server)));
        assert!((7198..=7200).contains(&clock.offset_seconds()), "{}", clock.offset_seconds());
    }
}
