//! When the client's own requests (list, head) are tried again; the fetch part has its own rules for data.
//! Two schedules, as in ossfs2 (PhotonLibOS `ecosystem/oss.cpp`): a short one for what may pass, and a slow one
//! for "too many requests", which goes on until a minute has been waited. Pure: the caller sleeps.

use std::time::Duration;

use super::error::Error;
use crate::base::Backoff;

/// Waits after transport errors and 5xx (SDK v2: 0.2 s, doubling, at most 20 s, full jitter).
const PASSING: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(20));
/// Retries after transport errors and 5xx; the SDKs make 2, but a load hangs on its listing.
const PASSING_RETRIES: u32 = 4;
/// First wait after a QPS limit; doubles each time.
const SLOW_FIRST: Duration = Duration::from_secs(1);
/// How long one request waits for QPS limits, in sum (PhotonLibOS: its request timeout).
const SLOW_TOTAL: Duration = Duration::from_secs(60);

/// Tries of one request so far.
#[derive(Debug, Default)]
pub(super) struct Retry {
    passing: u32,
    slow: u32,
    slow_waited: Duration,
}

impl Retry {
    /// How long to wait before the next try after `error`; None = give up. `jitter` in `0.0..1.0`.
    pub(super) fn wait(&mut self, error: &Error, jitter: f64) -> Option<Duration> {
        if error.is_slow_down() {
            let wait = SLOW_FIRST.saturating_mul(2u32.saturating_pow(self.slow));
            self.slow += 1;
            self.slow_waited = self.slow_waited.saturating_add(wait);
            return (self.slow_waited <= SLOW_TOTAL).then_some(wait);
        }
        if !error.is_retryable() || self.passing >= PASSING_RETRIES {
            return None;
        }
        let wait = PASSING.wait(self.passing, jitter);
        self.passing += 1;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::{ReplyFacts, ServiceError};
    use super::*;

    fn service(status: u16, code: &str) -> Error {
        let body = format!("<Error><Code>{code}</Code></Error>");
        let facts = ReplyFacts { status, body: body.as_bytes(), ..ReplyFacts::default() };
        Error::Service(Box::new(ServiceError::new("GET", "oss://b/", &facts)))
    }

    #[test]
    fn two_schedules() {
        let waits = |error: &Error| {
            let mut retry = Retry::default();
            std::iter::from_fn(|| retry.wait(error, 0.5).map(|wait| wait.as_millis())).collect::<Vec<_>>()
        };
        assert_eq!(waits(&service(500, "InternalError")), [100, 200, 400, 800]);
        assert_eq!(waits(&service(503, "TotalQpsLimitExceeded")), [1000, 2000, 4000, 8000, 16000]);
        assert_eq!(waits(&service(403, "AccessDenied")), [] as [u128; 0]);
    }
}
