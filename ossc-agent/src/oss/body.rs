//! The body of a checked reply, lent to the consumer piece by piece from the connection's one buffer. On http
//! each byte is copied once, by recv; what came along with the head, at most some KiB, twice. A body that ends
//! early, stands still or crawls is an error, and so is one that is dropped before its end: the connection is
//! closed then, since what follows on it cannot be told from the rest of the body.

use std::fmt;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::connection::Connection;
use super::dial::Stream;
use super::error::Error;
use super::reply::ReplyHead;

/// Bytes a second that must come over one and a half request timeouts of waiting, else another connection does
/// better. Far below the 100 KiB/s that is the least OSS lets a user throttle a request to
/// (`x-oss-traffic-limit`), even if 50 share that.
const LEAST_RATE: u64 = 2 << 10;

/// The body being received.
pub struct Body<'a> {
    connection: &'a mut Connection,
    target: String,
    /// None once the body is received and the connection given back, or after an error.
    stream: Option<Stream>,
    keep_alive: bool,
    crc64: Option<u64>,
    /// Bytes in the buffer that were not lent yet: `start..end`.
    start: usize,
    end: usize,
    /// Bytes that have not been received yet.
    missing: u64,
    progress: Progress,
}

/// How fast bytes come. Only time spent waiting for the network counts, not the consumer's.
#[derive(Debug)]
struct Progress {
    bytes: u64,
    waited: Duration,
    /// The waiting over which it is judged.
    window: Duration,
}

impl<'a> Body<'a> {
    /// A body of `length` bytes, of which the first `received` are in the connection's buffer.
    pub(super) fn new(
        connection: &'a mut Connection,
        target: String,
        stream: Stream,
        head: &ReplyHead,
        received: usize,
        length: u64,
    ) -> Self {
        let progress = Progress::over(connection.shared.request_timeout * 3 / 2);
        Self {
            connection,
            target,
            stream: Some(stream),
            keep_alive: head.keep_alive,
            crc64: head.crc64,
            start: 0,
            end: received,
            missing: length.saturating_sub(received as u64),
            progress,
        }
    }
}

impl Body<'_> {
    /// `x-oss-hash-crc64ecma` of the whole object, if the reply had it.
    #[must_use]
    pub fn object_crc64(&self) -> Option<u64> {
        self.crc64
    }

    /// The next bytes, lent from the connection's buffer: `max`, or as many as the buffer holds (1 MiB) or the
    /// range still has, whichever is least, but at least one. Waits until they are all there. None at the end
    /// of the range. An error is final. If the future is dropped, nothing is lost: the next call goes on.
    pub async fn next(&mut self, max: usize) -> Result<Option<&[u8]>, Error> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let room = self.connection.buffer.len().saturating_sub(self.start);
        let at_hand = self.end - self.start;
        let left = usize::try_from(self.missing).unwrap_or(usize::MAX).saturating_add(at_hand);
        let wanted_end = self.start + max.max(1).min(room).min(left);
        while self.end < wanted_end {
            if let Err(error) = self.receive(wanted_end).await {
                // Final: neither the connection nor what came of this piece is used.
                self.stream = None;
                self.end = self.start;
                return Err(error);
            }
        }
        if self.missing == 0
            && let Some(stream) = self.stream.take()
            && self.keep_alive
        {
            self.connection.keep(stream);
        }
        let lent = self.start..wanted_end;
        self.start = wanted_end;
        Ok(self.connection.buffer.get(lent).filter(|bytes| !bytes.is_empty()))
    }

    /// Receives once, up to `until` in the buffer.
    async fn receive(&mut self, until: usize) -> Result<(), Error> {
        let short = || Error::ShortBody { target: self.target.clone(), missing: self.missing };
        let (Some(stream), Some(room)) =
            (self.stream.as_mut(), self.connection.buffer.get_mut(self.end..until))
        else {
            return Err(short());
        };
        let asked = Instant::now();
        let patience = self.connection.shared.request_timeout;
        let count = match timeout(patience, stream.read(room)).await {
            Ok(Ok(0)) => return Err(short()),
            Ok(Ok(count)) => count,
            Ok(Err(error)) => return Err(Error::transport(&self.target, "receiving the body", error)),
            Err(_) => return Err(self.stalled(0, patience)),
        };
        self.end += count;
        self.missing = self.missing.saturating_sub(count as u64);
        match self.progress.add(count as u64, asked.elapsed()) {
            Some(bytes) => Err(self.stalled(bytes, self.progress.window)),
            None => Ok(()),
        }
    }

    fn stalled(&self, bytes: u64, window: Duration) -> Error {
        Error::Stalled { target: self.target.clone(), bytes, seconds: window.as_secs() }
    }
}

impl fmt::Debug for Body<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("target", &self.target)
            .field("missing", &self.missing)
            .finish_non_exhaustive()
    }
}

impl Progress {
    fn over(window: Duration) -> Self {
        Self { bytes: 0, waited: Duration::ZERO, window }
    }

    /// Counts bytes that took `waited`; Some(bytes of the window) if a window ends with too few.
    fn add(&mut self, bytes: u64, waited: Duration) -> Option<u64> {
        self.bytes = self.bytes.saturating_add(bytes);
        self.waited = self.waited.saturating_add(waited);
        if self.waited < self.window {
            return None;
        }
        let bytes = std::mem::take(&mut self.bytes);
        self.waited = Duration::ZERO;
        (bytes < LEAST_RATE.saturating_mul(self.window.as_secs())).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crawl_is_noticed_and_a_slow_line_is_not() {
        let run = |bytes: u64| {
            let mut progress = Progress::over(Duration::from_secs(30));
            (0..60).find_map(|_| progress.add(bytes, Duration::from_secs(1)))
        };
        assert_eq!(run(1), Some(30));
        assert_eq!(run(3 << 10), None);
    }
}
