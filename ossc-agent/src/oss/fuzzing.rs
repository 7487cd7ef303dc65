//! What comes from OSS, from credential services and from people who write endpoints, as functions of bytes
//! for fuzzers. Each panics when a parser accepts what cannot be, or when what it made of the bytes breaks a rule
//! that the rest of this part builds on. Driven by `crate::fuzzing`.

use std::time::SystemTime;

use super::clock::Clock;
use super::credentials;
use super::endpoint::{Authority, Endpoint};
use super::error::{ReplyFacts, ServiceError};
use super::metadata::MAX_OBJECT_BYTES;
use super::{list, reply, uri};
use crate::base::{ByteRange, ETag, Object};

/// A page of ListObjectsV2, below a prefix.
pub(crate) fn listing(bytes: &[u8]) {
    const BASE: &str = "m/";
    let page = match list::parse(bytes, BASE) {
        Ok(page) => page,
        Err(reason) => {
            return assert!(!reason.contains(char::is_control), "it can forge lines of the log: {reason:?}");
        }
    };
    for object in page.objects {
        assert!(!object.name.is_empty() && object.key == format!("{BASE}{}", object.name), "{object:?}");
        assert!(object.size <= MAX_OBJECT_BYTES, "{object:?}");
        assert!(object.etag.as_str().bytes().all(|byte| byte.is_ascii_graphic()), "{object:?}");
    }
}

/// An error document, in a body and, as base64, in `x-oss-err`.
pub(crate) fn error(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for facts in [
        ReplyFacts { status: 403, body: bytes, ..ReplyFacts::default() },
        ReplyFacts {
            status: 404,
            err: Some(&text),
            request_id: Some(&text),
            ec: Some(&text),
            ..ReplyFacts::default()
        },
    ] {
        let error = ServiceError::new("GET", "oss://b/k", &facts);
        let line = error.to_string();
        assert!(!line.contains(char::is_control), "it can forge lines of the log: {line:?}");
        let signed = error.string_to_sign().unwrap_or_default();
        let shows = |line: &str| line.starts_with("x-oss-security-token:") && !line.ends_with(":***");
        assert!(!signed.lines().any(shows), "a token is shown: {signed:?}");
        let _class = super::Error::Service(Box::new(error)).errno();
    }
}

/// The head of a reply on the data path, its dates, and whether it may be taken for a range.
pub(crate) fn reply_head(bytes: &[u8]) {
    let parsed = reply::parse(bytes);
    let Ok(Some((head, length))) = parsed else { return };
    assert!(length <= bytes.len());
    // A head arrives in pieces: what is complete is complete at the same place, and not before it.
    assert!(matches!(reply::parse(&bytes[..length]), Ok(Some((_, same))) if same == length));
    assert!(!matches!(reply::parse(&bytes[..length - 1]), Ok(Some(_))), "complete before its end");
    let object = Object {
        key: "k".to_owned(),
        name: "k".to_owned(),
        size: 100,
        etag: ETag::new("\"5B3C\""),
        modified: SystemTime::UNIX_EPOCH,
        crc64: None,
    };
    let range = ByteRange::new(10, 30);
    if head.check("oss://b/k", &object, range).is_ok() {
        assert_eq!((head.status, head.length), (206, Some(20)));
        assert!(!head.is_interim() && head.error_body_length().is_some());
    }
    let line = head.service_error("oss://b/k", bytes, None).to_string();
    assert!(!line.contains(char::is_control), "it can forge lines of the log: {line:?}");
    for date in String::from_utf8_lossy(bytes).lines().filter_map(|line| line.split_once(": ")) {
        let clock = Clock::default();
        if clock.correct(date.1) {
            // Panics on a time that HTTP dates cannot write.
            httpdate::fmt_http_date(clock.now());
        }
    }
}

/// Every document that access keys come in.
pub(crate) fn credentials(bytes: &[u8]) {
    credentials::fuzzing::documents(bytes);
}

/// An endpoint, then a bucket, a region and a key, each on a line.
pub(crate) fn endpoint(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (endpoint, bucket, region, key) = (next(), next(), next(), next());
    if let Ok(authority) = Authority::parse(endpoint) {
        let scheme = if authority.tls { "https" } else { "http" };
        let again = format!("{scheme}://{}", authority.host_header());
        assert_eq!(Authority::parse(&again), Ok(authority), "{again}");
    }
    let encoded = uri::path(key);
    assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic()), "{encoded}");
    assert_eq!(uri::decode(&encoded).as_deref(), Some(key));
    assert_eq!(uri::decode(&uri::component(key)).as_deref(), Some(key));
    let region = Some(region).filter(|region| !region.is_empty());
    for cname in [false, true] {
        let Ok(endpoint) = Endpoint::new(endpoint, bucket, cname, region) else { continue };
        let line = format!(
            "{}{}{}",
            endpoint.authority().host_header(),
            endpoint.path(bucket, key),
            endpoint.region().unwrap_or_default()
        );
        assert!(line.bytes().all(|byte| byte.is_ascii_graphic()), "not for the head of a request: {line:?}");
    }
}
