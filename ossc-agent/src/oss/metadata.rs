//! What reply headers say of an object: size, ETag, time, checksum. Pure; used for HEAD, by listings for what
//! they have in common with it, and by the data path for ETag and checksum. A reply without one of the first
//! three describes nothing that could be loaded and is refused.

use std::time::SystemTime;

use super::http::Reply;
use crate::base::{ETag, Object};

/// Header with the CRC-64/XZ of the whole object, also on ranged replies; unsigned decimal. Absent for some
/// old or copied objects.
pub(super) const CRC64_HEADER: &str = "x-oss-hash-crc64ecma";
/// Largest object OSS takes, 48.8 TB (help.aliyun.com "limits"); a larger size is a broken reply.
pub(super) const MAX_OBJECT_BYTES: u64 = 48_800_000_000_000;

/// The object a HEAD reply describes, or what is wrong with the reply.
pub(super) fn from_head(key: &str, name: &str, reply: &Reply) -> Result<Object, &'static str> {
    let size: u64 = reply
        .header("content-length")
        .and_then(|text| text.parse().ok())
        .filter(|size| *size <= MAX_OBJECT_BYTES)
        .ok_or("no usable Content-Length")?;
    let etag = reply.header("etag").and_then(etag).ok_or("no usable ETag")?;
    let modified: SystemTime = reply
        .header("last-modified")
        .and_then(|text| httpdate::parse_http_date(text).ok())
        .ok_or("no usable Last-Modified")?;
    let crc64 = reply.header(CRC64_HEADER).and_then(|text| text.parse().ok());
    Ok(Object { key: key.to_owned(), name: name.to_owned(), size, etag, modified, crc64 })
}

/// An ETag that can be sent back in a header.
pub(super) fn etag(raw: &str) -> Option<ETag> {
    let usable = !raw.is_empty() && raw.bytes().all(|byte| byte.is_ascii_graphic());
    usable.then(|| ETag::new(raw))
}
