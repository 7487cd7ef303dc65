//! Where bytes come from: a trait with one adapter for the OSS connection, so that `worker` can be tested
//! against a scripted source and other origins can stand beside it. The adapter also sorts failures by what is
//! to be done about them; that is decided here and nowhere else.

use std::error::Error;

use crate::base::{ByteRange, Lane, Object};
use crate::{oss, peer};

/// What to do about a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Try again on a fresh connection.
    TryAgain,
    /// Try again later: the origin asks for fewer requests.
    SlowDown,
    /// The object is not the listed version any more: its file is lost.
    GiveUpFile,
    /// Trying again cannot help.
    GiveUp,
}

/// A failed request or a broken body.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) remedy: Remedy,
    pub(super) cause: Box<dyn Error + Send + Sync>,
}

/// One connection, owned by one task.
pub(super) trait Source {
    /// A reply's body; reading it uses the connection.
    type Body<'a>: Body
    where
        Self: 'a;

    /// What the next GETs are for, and which try it is, from 1. For logs alone.
    fn set_purpose(&mut self, _lane: Lane, _attempt: u32) {}

    /// One try of a ranged GET; resolves when the reply's head is found to be the answer to this request.
    async fn get<'a>(&'a mut self, object: &Object, range: ByteRange) -> Result<Self::Body<'a>, Fault>;
}

/// A body being received.
pub(super) trait Body {
    /// CRC-64/XZ of the whole object, if the reply told it.
    fn object_crc64(&self) -> Option<u64>;

    /// What the one block that is asked for must have, if the reply told it: peers do.
    fn block_crc64(&self) -> Option<u64> {
        None
    }

    /// And the BLAKE3 that a manifest asks of it.
    fn block_proof(&self) -> Option<blake3::Hash> {
        None
    }

    /// Waits until `next` has its bytes at once. May be dropped and called again.
    async fn fill(&mut self, max: usize) -> Result<(), Fault>;

    /// How many bytes of what `fill` waits for have come.
    fn come(&self) -> usize;

    /// The next bytes, at least one and at most `max`; `None` behind the end of the range.
    async fn next(&mut self, max: usize) -> Result<Option<&[u8]>, Fault>;
}

impl Source for oss::Connection {
    type Body<'a> = oss::Body<'a>;

    fn set_purpose(&mut self, lane: Lane, attempt: u32) {
        Self::set_purpose(self, lane, attempt);
    }

    async fn get<'a>(&'a mut self, object: &Object, range: ByteRange) -> Result<oss::Body<'a>, Fault> {
        Self::get(self, object, range).await.map_err(Fault::from)
    }
}

impl Body for oss::Body<'_> {
    fn object_crc64(&self) -> Option<u64> {
        Self::object_crc64(self)
    }

    async fn fill(&mut self, max: usize) -> Result<(), Fault> {
        Self::fill(self, max).await.map_err(Fault::from)
    }

    fn come(&self) -> usize {
        Self::come(self)
    }

    async fn next(&mut self, max: usize) -> Result<Option<&[u8]>, Fault> {
        Self::next(self, max).await.map_err(Fault::from)
    }
}

impl Body for peer::Body {
    fn object_crc64(&self) -> Option<u64> {
        None
    }

    fn block_crc64(&self) -> Option<u64> {
        Some(Self::block_crc64(self))
    }

    fn block_proof(&self) -> Option<blake3::Hash> {
        Self::block_proof(self)
    }

    async fn fill(&mut self, max: usize) -> Result<(), Fault> {
        Self::fill(self, max).await.map_err(|error| Fault { remedy: Remedy::TryAgain, cause: error.into() })
    }

    fn come(&self) -> usize {
        Self::come(self)
    }

    async fn next(&mut self, max: usize) -> Result<Option<&[u8]>, Fault> {
        Self::next(self, max).await.map_err(|error| Fault { remedy: Remedy::TryAgain, cause: error.into() })
    }
}

impl From<oss::Error> for Fault {
    fn from(error: oss::Error) -> Self {
        let remedy = if error.is_changed() {
            Remedy::GiveUpFile
        } else if error.is_slow_down() {
            Remedy::SlowDown
        } else if error.is_retryable() {
            Remedy::TryAgain
        } else {
            Remedy::GiveUp
        };
        Self { remedy, cause: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_sorted_by_what_helps() {
        let target = || "oss://bucket/key".to_owned();
        for (error, remedy) in [
            (oss::Error::ShortBody { target: target(), missing: 1 }, Remedy::TryAgain),
            (oss::Error::Stalled { target: target(), bytes: 0, seconds: 20 }, Remedy::TryAgain),
            (
                oss::Error::Changed { target: target(), expected: "a".into(), found: "b".into() },
                Remedy::GiveUpFile,
            ),
            (oss::Error::Range { target: target(), start: 0, end: 2, size: 1 }, Remedy::GiveUp),
        ] {
            let text = error.to_string();
            assert_eq!(Fault::from(error).remedy, remedy, "{text}");
        }
    }
}
