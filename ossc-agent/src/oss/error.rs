//! What can go wrong with OSS, in one type that classifies itself: whether another try helps, how long to
//! wait, whether the object was replaced, what errno a reader gets. The retry loops (`retry`, and those of
//! `fetch`) and the gate branch on these methods only, never on codes. Messages say what failed, on which
//! object, why, and for the usual codes what to do.

mod service;

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

pub use self::service::ServiceError;
pub(super) use self::service::{ReplyFacts, printable};
use super::credentials::CredentialsError;
use super::proxy;

/// Failure of a request or of its set-up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that cannot work.
    #[error("{setting} '{value}' cannot be used: {reason}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// As given.
        value: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The extra trusted roots cannot be read.
    #[error("cannot read certificates from {}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TLS is wanted and nothing is trusted.
    #[error(
        "no trusted root certificates on this machine: install the ca-certificates package, give a CA file, \
         or use an http:// endpoint"
    )]
    NoRoots,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// A request cannot be signed.
    #[error("the request cannot be signed: {reason}")]
    Signing {
        /// Why.
        reason: &'static str,
    },
    /// No usable access keys.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// OSS answered with an error.
    #[error(transparent)]
    Service(Box<ServiceError>),
    /// The connection could not be made or broke.
    #[error("{target}: {step} failed")]
    Transport {
        /// `oss://bucket/key`.
        target: String,
        /// What was being done.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The body crawls.
    #[error(
        "{target}: only {bytes} bytes came in {seconds} s of waiting; the connection is given up as stalled"
    )]
    Stalled {
        /// `oss://bucket/key`.
        target: String,
        /// Received in the window.
        bytes: u64,
        /// Length of the window.
        seconds: u64,
    },
    /// The connection ended before the body did.
    #[error("{target}: the connection was closed {missing} bytes before the end of the range")]
    ShortBody {
        /// `oss://bucket/key`.
        target: String,
        /// Bytes promised and not sent.
        missing: u64,
    },
    /// A reply that is not what was asked for; nothing of it was used.
    #[error("{target}: reply refused: {reason}")]
    Protocol {
        /// `oss://bucket/key`.
        target: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The object is not the one that was listed.
    #[error("{target}: object replaced during the load: expected ETag {expected}, found {found}")]
    Changed {
        /// `oss://bucket/key`.
        target: String,
        /// ETag of the listing.
        expected: String,
        /// ETag of the reply.
        found: String,
    },
    /// A range that is empty or reaches beyond the object.
    #[error("{target}: range {start}..{end} is not inside the object of {size} bytes")]
    Range {
        /// `oss://bucket/key`.
        target: String,
        /// First byte.
        start: u64,
        /// Behind the last byte.
        end: u64,
        /// Size of the object.
        size: u64,
    },
    /// A listing that cannot be believed.
    #[error("listing of {target} refused: {reason}")]
    Listing {
        /// `oss://bucket/prefix`.
        target: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing to load.
    #[error("{target} matches no object: check OSS_PATH, bucket and prefix")]
    NoObject {
        /// `oss://bucket/prefix`.
        target: String,
    },
}

impl Error {
    pub(super) fn setting(setting: &'static str, value: &str, reason: &'static str) -> Self {
        Self::Setting { setting, value: value.to_owned(), reason }
    }

    pub(super) fn transport(target: &str, step: &'static str, source: io::Error) -> Self {
        Self::Transport { target: target.to_owned(), step, source }
    }

    pub(super) fn protocol(target: &str, reason: impl Into<String>) -> Self {
        Self::Protocol { target: target.to_owned(), reason: reason.into() }
    }

    /// Whether the same request may succeed later. The table of the SDKs (`retry/error_retryable`):
    /// transport errors, short bodies, status 401, 408, 429 and 5xx, and a few codes.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Service(error) => error.is_retryable(),
            Self::Credentials(error) => error.is_retryable(),
            Self::Transport { source, .. } => !proxy::is_final(source),
            Self::Stalled { .. } | Self::ShortBody { .. } | Self::Protocol { .. } => true,
            Self::Setting { .. }
            | Self::CaFile { .. }
            | Self::NoRoots
            | Self::Tls(_)
            | Self::Signing { .. }
            | Self::Changed { .. }
            | Self::Range { .. }
            | Self::Listing { .. }
            | Self::NoObject { .. } => false,
        }
    }

    /// Whether OSS asks for fewer requests or less bandwidth: wait 1 s, doubling, up to 60 s in sum, and use
    /// fewer connections.
    #[must_use]
    pub fn is_slow_down(&self) -> bool {
        self.service().is_some_and(ServiceError::is_slow_down)
    }

    /// Whether new credentials may help; `Connection::get`, `list` and `head` already tried once.
    #[must_use]
    pub fn is_expired_credentials(&self) -> bool {
        self.service().is_some_and(ServiceError::is_expired_credentials)
    }

    /// Whether the object is no longer the one that was listed (replaced or deleted): no retry can help.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        match self {
            Self::Changed { .. } => true,
            Self::Service(error) => error.is_changed(),
            _ => false,
        }
    }

    /// What a reader of the object gets: ESTALE for a replaced object, EACCES and ENOENT as OSS says, else EIO.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Changed { .. } => Errno::ESTALE,
            Self::NoObject { .. } => Errno::ENOENT,
            Self::Service(error) => error.errno(),
            _ => Errno::EIO,
        }
    }

    /// OSS's own account of the failure, if it gave one: code, request id, EC, status.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceError> {
        match self {
            Self::Service(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
