//! Signatures of OSS requests: V4 where the region is known, V1 where not (as ossfs2 does). Pure: time and
//! credentials come in, headers go out. The request path of the wire (virtual host, path style, CNAME) has no
//! part in either signature: both sign `/<bucket>/<key>`. Neither signs `Range` or `If-Match`, so one
//! signature serves all ranges of an object while it is fresh.
//! Facts and test vectors: help.aliyun.com "signature version 4" and "signature version 1", and the official
//! SDKs (`alibabacloud_oss_v2/signer`, `oss2/auth.py`).

mod v1;
mod v4;

#[cfg(test)]
mod tests;

use std::time::SystemTime;

use hmac::{KeyInit, Mac};
use zeroize::Zeroizing;

use super::credentials::Credentials;
use super::error::Error;

/// What of a request is signed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    /// HTTP method, upper case.
    pub(super) method: &'a str,
    /// Bucket, also where it is not in the URL.
    pub(super) bucket: &'a str,
    /// Key, raw; empty for the bucket itself.
    pub(super) key: &'a str,
    /// Query parameters, raw.
    pub(super) query: &'a [(&'a str, &'a str)],
    /// Headers to be sent, names in lower case.
    pub(super) headers: &'a [(&'a str, &'a str)],
}

/// A header to add to a request. The value may hold a secret and is wiped.
pub(super) type Header = (&'static str, Zeroizing<String>);

/// A signature scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Signer {
    /// OSS4-HMAC-SHA256 for a region.
    V4 {
        /// Plain region id, e.g. `cn-hangzhou`.
        region: String,
    },
    /// HMAC-SHA1, without region.
    V1,
}

impl Signer {
    /// The scheme for a region, given or inferred, or for none.
    pub(super) fn new(region: Option<&str>) -> Self {
        region.map_or(Self::V1, |region| Self::V4 { region: region.to_owned() })
    }

    /// The headers that make the request a signed one: date, token, `authorization`.
    pub(super) fn sign(
        &self,
        request: &Request<'_>,
        credentials: &Credentials,
        now: SystemTime,
    ) -> Result<Vec<Header>, Error> {
        match self {
            Self::V4 { region } => v4::sign(request, region, credentials, now),
            Self::V1 => v1::sign(request, credentials, now),
        }
    }
}

/// `name:value\n` of each header picked, sorted by name: the form both schemes share.
fn header_lines(headers: &[(&str, &str)], pick: impl Fn(&str) -> bool) -> String {
    let mut lines: Vec<String> = headers
        .iter()
        .filter(|(name, _)| pick(name))
        .map(|(name, value)| format!("{name}:{}\n", value.trim()))
        .collect();
    lines.sort();
    lines.concat()
}

/// A keyed hash of `data`.
fn mac<M: KeyInit + Mac>(key: &[u8], data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mac = <M as KeyInit>::new_from_slice(key)
        .map_err(|_| Error::Signing { reason: "the access key secret has an impossible length" })?;
    Ok(Zeroizing::new(mac.chain_update(data).finalize().into_bytes().to_vec()))
}
