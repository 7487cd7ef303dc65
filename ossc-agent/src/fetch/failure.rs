//! Why bytes could not be had for good: what a reader's call returns, and what the log says. One value a cause,
//! shared by everyone it reaches.

use std::error::Error;
use std::sync::Arc;

use nix::errno::Errno;

use crate::base::{ByteRange, ETag, FileId, chain};

/// Any cause below.
pub(super) type Source = Box<dyn Error + Send + Sync>;

/// Why blocks could not be had for good; cheap to clone, one per cause.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct Failure(Arc<Cause>);

/// What happened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error(
        "object '{key}' is not the version {etag} any more that was listed at start; start the agent again to load \
         the new one"
    )]
    Changed { key: String, etag: ETag, source: Source },
    #[error("bytes {range} of object '{key}' cannot be fetched; a new read tries again")]
    Origin { key: String, range: ByteRange, source: Source },
    #[error(
        "bytes {range} of object '{key}' cannot be written to its file; make room or repair, then read again"
    )]
    Write { key: String, range: ByteRange, source: Source },
    #[error(
        "file of object '{key}' has CRC-64 {found}, OSS says {expected}, also after fetching it again; its bytes \
         are not to be trusted"
    )]
    Checksum { key: String, expected: u64, found: u64 },
    #[error("file of object '{key}' is full but cannot be recorded as complete")]
    Seal { key: String, source: Source },
    #[error("there is no file number {}", .0.0)]
    UnknownFile(FileId),
    #[error("the agent is shutting down")]
    ShuttingDown,
}

impl Failure {
    pub(super) fn new(cause: Cause) -> Self {
        Self(Arc::new(cause))
    }

    /// What the reader's system call should return: ESTALE where the object was replaced or deleted, else EIO. A
    /// full disk under the agent is EIO too: ENOSPC means nothing to a reader. The gate passes on what its
    /// mechanism can; fanotify knows no ESTALE (fanotify(7), `FAN_DENY_ERRNO`).
    #[must_use]
    pub fn errno(&self) -> Errno {
        match *self.0 {
            Cause::Changed { .. } => Errno::ESTALE,
            Cause::Origin { .. }
            | Cause::Write { .. }
            | Cause::Checksum { .. }
            | Cause::Seal { .. }
            | Cause::UnknownFile(_)
            | Cause::ShuttingDown => Errno::EIO,
        }
    }

    /// Whether the object is another version now, or gone: a new listing would tell.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        matches!(*self.0, Cause::Changed { .. })
    }

    /// The message with those of its causes behind it, for a log line.
    #[must_use]
    pub fn chain(&self) -> String {
        chain(self)
    }
}
