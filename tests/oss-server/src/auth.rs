//! Who may do this: verification of the two OSS signatures, each in header and query form.
//!
//! The server recomputes every signature from what arrived on the wire, with its own code (`v4`, `v1`), and compares.
//! It shares none of it with the agent, so a mistake in the agent's signing cannot approve itself. Before the
//! signature come the checks OSS makes first: known key, matching and unexpired token, a clock within 15 minutes. The
//! refusal of a wrong signature carries the strings the server computed, as OSS does, so that the difference shows.

mod keys;
mod v1;
mod v4;

use serde::Serialize;

use crate::address::Address;
use crate::error::OssError;
use crate::request::Request;

pub use keys::Keys;
use keys::Secret;

/// Largest difference between the request's time and the server's, in seconds (OSS: 15 minutes).
const MAX_SKEW: i64 = 15 * 60;

/// How a request proved who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authorization {
    /// Not at all.
    #[default]
    Anonymous,
    /// Signature V4 in the `Authorization` header.
    V4Header,
    /// Signature V4 in the query.
    V4Query,
    /// Signature V1 in the `Authorization` header.
    V1Header,
    /// Signature V1 in the query.
    V1Query,
}

impl Authorization {
    /// The form this request uses, by its looks alone.
    pub(crate) fn of(request: &Request) -> Self {
        match request.header("authorization") {
            Some(value) if value.starts_with(v4::ALGORITHM) => Self::V4Header,
            Some(_) => Self::V1Header,
            None if request.param("x-oss-signature-version").is_some() => Self::V4Query,
            None if request.param("Signature").is_some() => Self::V1Query,
            None => Self::Anonymous,
        }
    }
}

/// What the server knows when it judges a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judge<'a> {
    /// Known access keys.
    pub(crate) keys: &'a Keys,
    /// Region the scope must name.
    pub(crate) region: &'a str,
    /// Whether unsigned reads are allowed.
    pub(crate) public: bool,
    /// The server's time, seconds since 1970.
    pub(crate) now: i64,
}

impl Judge<'_> {
    /// Accepts the request or says why not.
    pub(crate) fn verify(&self, request: &Request, address: &Address) -> Result<(), OssError> {
        match Authorization::of(request) {
            Authorization::Anonymous if self.public => Ok(()),
            Authorization::Anonymous => Err(OssError::of("AccessDenied")),
            Authorization::V4Header => v4::header(self, request, address),
            Authorization::V4Query => v4::query(self, request, address),
            Authorization::V1Header => v1::header(self, request, address),
            Authorization::V1Query => v1::query(self, request, address),
        }
    }

    /// The secret of a key, if key and token belong together and have not expired.
    fn secret(&self, id: &str, token: Option<&str>) -> Result<Secret, OssError> {
        self.keys.find(id, token, self.now)
    }

    /// Refuses a request signed too long ago or in the future.
    fn check_clock(&self, signed: i64) -> Result<(), OssError> {
        if (signed - self.now).abs() <= MAX_SKEW { Ok(()) } else { Err(OssError::of("RequestTimeTooSkewed")) }
    }
}

/// A header that is missing, twice, or not of the form described.
fn malformed(what: impl Into<String>) -> OssError {
    OssError::of("InvalidArgument").because(what.into())
}

#[cfg(test)]
mod tests;
