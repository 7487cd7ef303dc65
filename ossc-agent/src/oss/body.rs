//! The body of a checked reply, lent to the consumer piece by piece from one of the thread's buffers (`buffer`),
//! which is held only from the moment the kernel has the piece until the next one is asked for. On http each byte
//! is copied once, by recv; what came along with the head, at most some KiB, twice. A body that ends
//! early, stands still or crawls is an error, and so is one that is dropped before its end: the connection is
//! closed then, since what follows on it cannot be told from the rest of the body.

use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::buffer::{self, Buffer};
use super::connection::Connection;
use super::dial::Stream;
use super::error::Error;
use super::reply::ReplyHead;

/// Longest wait for a whole piece, before what there is of it is received.
const PIECE_TIMEOUT: Duration = Duration::from_millis(50);
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
    /// What came with the head and is in no buffer yet, in `Connection::head`.
    begun: Range<usize>,
    /// Held while there is something in it.
    buffer: Option<Buffer>,
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
    /// A body of `length` bytes, of which the first came with the head.
    pub(super) fn new(
        connection: &'a mut Connection,
        target: String,
        stream: Stream,
        head: &ReplyHead,
        begun: Range<usize>,
        length: u64,
    ) -> Self {
        let progress = Progress::over(connection.shared.request_timeout * 3 / 2);
        Self {
            connection,
            target,
            stream: Some(stream),
            keep_alive: head.keep_alive,
            crc64: head.crc64,
            missing: length.saturating_sub(begun.len() as u64),
            begun,
            buffer: None,
            start: 0,
            end: 0,
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

    /// The next bytes, lent from a buffer: `max`, or as many as a buffer holds (1 MiB) or the range still has,
    /// whichever is least, but at least one. Waits until they are all there. None at the end of the range. An
    /// error is final. If the future is dropped, nothing is lost: the next call goes on.
    pub async fn next(&mut self, max: usize) -> Result<Option<&[u8]>, Error> {
        self.fill(max).await?;
        if self.missing == 0
            && let Some(stream) = self.stream.take()
            && self.keep_alive
        {
            self.connection.keep(stream);
        }
        let lent = self.start..self.end.min(self.start.saturating_add(max.max(1)));
        self.start = lent.end;
        Ok(self.buffer.as_ref().and_then(|buffer| buffer.get(lent)).filter(|bytes| !bytes.is_empty()))
    }

    /// Waits as `next` does, which then returns at once.
    pub async fn fill(&mut self, max: usize) -> Result<(), Error> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.buffer = None;
        }
        let room = buffer::SIZE.saturating_sub(self.start);
        let at_hand = self.end - self.start + self.begun.len();
        let left = usize::try_from(self.missing).unwrap_or(usize::MAX).saturating_add(at_hand);
        let wanted_end = self.start + max.max(1).min(room).min(left);
        self.take_begun(wanted_end);
        while self.end < wanted_end {
            if let Err(error) = self.receive(wanted_end).await {
                // Final: neither the connection nor what came of this piece is used.
                self.stream = None;
                self.end = self.start;
                return Err(error);
            }
        }
        Ok(())
    }

    /// How many bytes have come that were not lent yet.
    #[must_use]
    pub fn come(&self) -> usize {
        let unread = self.stream.as_ref().map_or(0, Stream::arrived);
        self.end - self.start + self.begun.len() + unread
    }

    /// Copies what came with the head, up to `until` in the buffer.
    fn take_begun(&mut self, until: usize) {
        let count = self.begun.len().min(until.saturating_sub(self.end));
        let from = self.begun.start..self.begun.start + count;
        if count == 0 {
            return;
        }
        let buffer = self.buffer.get_or_insert_with(Buffer::take);
        if let (Some(from), Some(to)) =
            (self.connection.head.get(from), buffer.get_mut(self.end..self.end + count))
        {
            to.copy_from_slice(from);
        }
        self.begun.start += count;
        self.end += count;
    }

    /// Receives once, up to `until` in the buffer.
    async fn receive(&mut self, until: usize) -> Result<(), Error> {
        let Some(stream) = self.stream.as_mut() else {
            return Err(Error::ShortBody { target: self.target.clone(), missing: self.missing });
        };
        let asked = Instant::now();
        let patience = self.connection.shared.request_timeout;
        let broken = |error| Error::transport(&self.target, "receiving the body", error);
        // When that time is over, however few there are.
        if let Ok(waited) = timeout(PIECE_TIMEOUT, stream.wait_for(until - self.end)).await {
            waited.map_err(broken)?;
        }
        let buffer = self.buffer.get_or_insert_with(Buffer::take);
        let room = buffer.get_mut(self.end..until).unwrap_or_default();
        let count = match timeout(patience, stream.receive(room)).await {
            Ok(Ok(0)) => {
                return Err(Error::ShortBody { target: self.target.clone(), missing: self.missing });
            }
            Ok(Ok(count)) => count,
            Ok(Err(error)) => return Err(broken(error)),
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
