//! From `Host` and path to bucket and key.
//!
//! OSS wants the bucket in the host name. Clients put it into the path when the endpoint is an IP address, because a
//! bucket cannot be a label of one; a path-style request to a name is refused, as OSS refuses it. Custom domains are
//! the bucket themselves.

use std::net::IpAddr;

use crate::error::OssError;
use crate::request::{Request, decode_path};

/// What a request names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Address {
    /// Bucket; empty at service level.
    pub(crate) bucket: String,
    /// Decoded key; empty at bucket level.
    pub(crate) key: String,
}

/// Finds bucket and key. `bucket` is the one this server has, `custom_domains` are the names that stand for it.
pub(crate) fn resolve(
    request: &Request,
    bucket: &str,
    custom_domains: &[String],
) -> Result<Address, OssError> {
    let host = request.host();
    let path = request.path.strip_prefix('/').unwrap_or(&request.path);
    if custom_domains.iter().any(|domain| domain == host) {
        return address(bucket, path);
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() || host == "localhost" || host.is_empty() {
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        return address(&decode_path(first).ok_or_else(not_utf8)?, rest);
    }
    let label = host.split_once('.').map_or(host, |(label, _)| label);
    let first = path.split_once('/').map_or(path, |(first, _)| first);
    if label != bucket && first == bucket {
        return Err(OssError::of("SecondLevelDomainForbidden"));
    }
    address(label, path)
}

fn address(bucket: &str, raw_key: &str) -> Result<Address, OssError> {
    Ok(Address { bucket: bucket.to_owned(), key: decode_path(raw_key).ok_or_else(not_utf8)? })
}

fn not_utf8() -> OssError {
    OssError::of("InvalidObjectName")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_addressing_style() {
        let domains = ["cdn.example.com".to_owned()];
        for (host, target, bucket, key) in [
            ("127.0.0.1:9000", "/b/a%2Fc%20d.bin?x", "b", "a/c d.bin"),
            ("127.0.0.1", "/b/?list-type=2", "b", ""),
            ("127.0.0.1", "/b", "b", ""),
            ("127.0.0.1", "/", "", ""),
            ("[::1]:80", "/b/k", "b", "k"),
            ("localhost:80", "/b/k", "b", "k"),
            ("b.localhost:80", "/k/l", "b", "k/l"),
            ("b.oss-cn-hangzhou.aliyuncs.com", "/%E6%A8%A1+", "b", "模+"),
            ("other.oss.test", "/k", "other", "k"),
            ("cdn.example.com", "/b/k", "b", "b/k"),
        ] {
            let request = Request::new("GET", target, [("Host", host.as_bytes())]);
            let found = resolve(&request, "b", &domains).unwrap();
            assert_eq!((found.bucket.as_str(), found.key.as_str()), (bucket, key), "{host}{target}");
        }
    }

    #[test]
    fn path_style_to_a_name_and_broken_text_are_refused() {
        for (host, target, code) in [
            ("oss-cn-hangzhou.aliyuncs.com", "/b/k", "SecondLevelDomainForbidden"),
            ("127.0.0.1", "/b/%FF", "InvalidObjectName"),
        ] {
            let request = Request::new("GET", target, [("Host", host.as_bytes())]);
            assert_eq!(resolve(&request, "b", &[]).unwrap_err().code, code);
        }
    }
}
