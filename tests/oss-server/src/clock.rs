//! The server's time and the three ways OSS writes it.
//!
//! A test may set the server's clock apart from the machine's, to provoke `RequestTimeTooSkewed` and to see the client
//! correct itself by the `Date` of the reply. Everything that tells or compares wall-clock time asks this clock;
//! durations and the log use the machine's monotonic clock instead.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Wall-clock seconds of the server, which may differ from the machine's.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    offset: AtomicI64,
}

impl Clock {
    /// Sets how many seconds the server's clock is ahead of the machine's.
    pub(crate) fn set_offset(&self, seconds: i64) {
        self.offset.store(seconds, Ordering::Relaxed);
    }

    /// Seconds since 1970-01-01 UTC, as the server sees it.
    pub(crate) fn now(&self) -> i64 {
        Timestamp::now().as_second().saturating_add(self.offset.load(Ordering::Relaxed))
    }
}

/// RFC 1123 form of HTTP headers: `Fri, 02 Jan 2026 03:04:05 GMT`.
pub(crate) fn http_date(seconds: i64) -> String {
    httpdate::fmt_http_date(system_time(seconds))
}

/// Reads the RFC 1123 form; `None` for anything else.
pub(crate) fn parse_http_date(text: &str) -> Option<i64> {
    let time = httpdate::parse_http_date(text).ok()?;
    i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// ISO 8601 form of listings: `2026-01-02T03:04:05.000Z`, always 24 characters.
pub(crate) fn listing_date(seconds: i64) -> String {
    strftime(seconds, "%Y-%m-%dT%H:%M:%S.000Z")
}

/// ISO 8601 form of credentials: `2026-01-02T03:04:05Z`.
pub(crate) fn credential_date(seconds: i64) -> String {
    strftime(seconds, "%Y-%m-%dT%H:%M:%SZ")
}

/// Reads the basic ISO 8601 form of signature V4: `20260102T030405Z`.
pub(crate) fn parse_signing_date(text: &str) -> Option<i64> {
    let date = DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

fn strftime(seconds: i64, format: &str) -> String {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).strftime(format).to_string()
}

fn system_time(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_second_in_all_forms() {
        const SECOND: i64 = 1_767_323_045;
        assert_eq!(http_date(SECOND), "Fri, 02 Jan 2026 03:04:05 GMT");
        assert_eq!(parse_http_date("Fri, 02 Jan 2026 03:04:05 GMT"), Some(SECOND));
        assert_eq!(listing_date(SECOND), "2026-01-02T03:04:05.000Z");
        assert_eq!(credential_date(SECOND), "2026-01-02T03:04:05Z");
        assert_eq!(parse_signing_date("20260102T030405Z"), Some(SECOND));
        for wrong in ["", "20260102", "2026-01-02T03:04:05Z", "20261302T030405Z", "20260102T030405Zx"] {
            assert_eq!(parse_signing_date(wrong), None, "{wrong}");
        }
    }
}
