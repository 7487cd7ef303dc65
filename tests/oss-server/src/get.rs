//! GetObject, HeadObject and GetObjectMeta.
//!
//! Conditions are judged first, in the order of RFC 9110 section 13.2.2, then the range. A ranged reply still carries
//! the checksum of the whole object, as OSS does.

use std::sync::Arc;

use crate::clock;
use crate::error::OssError;
use crate::objects::Object;
use crate::range::{Selection, select};
use crate::request::Request;
use crate::response::{Body, Response};

/// How one reply is to differ from the right one; see the fault rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Distortion {
    /// Ignore the range: 200 and the whole object.
    pub(crate) ignore_range: bool,
    /// Pretend that the object has been replaced by one of the same size.
    pub(crate) replaced: bool,
    /// Add to the start and end named in `Content-Range`, not to the bytes.
    pub(crate) shift_range: i64,
}

/// Answers GET and HEAD of an object.
pub(crate) fn answer(
    request: &Request,
    object: &Arc<Object>,
    wrong: Distortion,
) -> Result<Response, OssError> {
    let etag = if wrong.replaced { replaced_etag(&object.etag) } else { object.etag.clone() };
    let modified = object.last_modified + i64::from(wrong.replaced);
    if let Some(status) = failed_condition(request, &etag, modified) {
        if status == 412 {
            return Err(OssError::of("PreconditionFailed"));
        }
        let mut response = Response::empty(status);
        response.set("ETag", etag);
        response.set("Last-Modified", clock::http_date(modified));
        return Ok(response);
    }
    let size = object.size();
    let standard = request.header("x-oss-range-behavior") == Some("standard");
    let header = request.header("range").filter(|_| !wrong.ignore_range);
    let selection = select(header, standard, size);
    let (status, range) = match &selection {
        Selection::Whole => (200, 0..size),
        Selection::Part(range) => (206, range.clone()),
        Selection::Refused => {
            return Err(OssError::of("InvalidRange")
                .detail("ActualObjectSize", size.to_string())
                .detail("RangeRequested", header.unwrap_or_default()));
        }
    };
    let mut response = Response::empty(status);
    response.length = range.end - range.start;
    if status == 206 {
        let first = range.start.saturating_add_signed(wrong.shift_range);
        let last = (range.end - 1).saturating_add_signed(wrong.shift_range);
        response.set("Content-Range", format!("bytes {first}-{last}/{size}"));
    }
    response.set("ETag", etag);
    response.set("Last-Modified", clock::http_date(modified));
    if let Some(crc64) = object.crc64().map_err(|error| unreadable(&error))? {
        response.set("x-oss-hash-crc64ecma", crc64.to_string());
    }
    if request.param("objectMeta").is_none() {
        response.set("Accept-Ranges", "bytes");
        response.set("Content-Type", object.content_type.as_str());
        response.set("x-oss-object-type", object.object_type);
        response.set("x-oss-storage-class", "Standard");
    }
    if request.method == "GET" {
        let source = object.content.open().map_err(|error| unreadable(&error))?;
        response.body = Body::Object { source, range };
    }
    Ok(response)
}

/// The status of the first condition that does not hold: 412 or 304.
fn failed_condition(request: &Request, etag: &str, modified: i64) -> Option<u16> {
    let date = |name: &str| request.header(name).and_then(clock::parse_http_date);
    let same =
        |wanted: &str| wanted.trim() == "*" || wanted.trim().trim_matches('"') == etag.trim_matches('"');
    match request.header("if-match") {
        Some(wanted) if !same(wanted) => return Some(412),
        Some(_) => {}
        None if date("if-unmodified-since").is_some_and(|since| modified > since) => return Some(412),
        None => {}
    }
    match request.header("if-none-match") {
        Some(known) => same(known).then_some(304),
        None => date("if-modified-since").is_some_and(|since| modified <= since).then_some(304),
    }
}

/// Another ETag of the same form: the first digit differs.
fn replaced_etag(etag: &str) -> String {
    let mut digits = etag.chars();
    match (digits.next(), digits.next()) {
        (Some(quote), Some(first)) => {
            let other = if first == '0' { '1' } else { '0' };
            format!("{quote}{other}{}", digits.as_str())
        }
        _ => etag.to_owned(),
    }
}

fn unreadable(error: &std::io::Error) -> OssError {
    OssError::of("InternalError").because(format!("the object's content cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const MODIFIED: &str = "Fri, 02 Jan 2026 03:04:05 GMT";
    const EARLIER: &str = "Fri, 02 Jan 2026 03:04:04 GMT";

    fn object() -> Arc<Object> {
        let time = UNIX_EPOCH + Duration::from_secs(1_767_323_045);
        Arc::new(Object::bytes("123456789").etag("AB12").last_modified(time))
    }

    fn ask(
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        wrong: Distortion,
    ) -> Result<Response, OssError> {
        let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        answer(&Request::new(method, target, headers), &object(), wrong)
    }

    fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
        response.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn conditions() {
        for (name, value, status) in [
            ("If-Match", "\"AB12\"", 200),
            ("If-Match", "AB12", 200),
            ("If-Match", "*", 200),
            ("If-Match", "\"AB13\"", 412),
            ("If-None-Match", "\"AB12\"", 304),
            ("If-None-Match", "\"AB13\"", 200),
            ("If-Modified-Since", EARLIER, 200),
            ("If-Modified-Since", MODIFIED, 304),
            ("If-Modified-Since", "yesterday", 200),
            ("If-Unmodified-Since", EARLIER, 412),
            ("If-Unmodified-Since", MODIFIED, 200),
        ] {
            for method in ["GET", "HEAD"] {
                let found = ask(method, "/k", &[(name, value)], Distortion::default());
                let found = found.map_or_else(|error| error.status, |response| response.status);
                assert_eq!(found, status, "{method} {name}: {value}");
            }
        }
    }

    #[test]
    fn a_part_carries_its_place_and_the_checksum_of_the_whole() {
        let response = ask("GET", "/k", &[("Range", "bytes=2-4")], Distortion::default()).unwrap();
        assert_eq!((response.status, response.length, response.body.range()), (206, 3, Some(2..5)));
        assert_eq!(header(&response, "Content-Range"), Some("bytes 2-4/9"));
        assert_eq!(header(&response, "x-oss-hash-crc64ecma"), Some("11051210869376104954"));
        assert_eq!(header(&response, "Last-Modified"), Some(MODIFIED));
        assert_eq!(header(&response, "ETag"), Some("\"AB12\""));
    }

    #[test]
    fn head_has_the_length_of_the_object_and_object_meta_fewer_headers() {
        let full = ask("HEAD", "/k", &[], Distortion::default()).unwrap();
        let meta = ask("HEAD", "/k?objectMeta", &[], Distortion::default()).unwrap();
        for response in [&full, &meta] {
            assert_eq!((response.status, response.length, response.body.len()), (200, 9, 0));
        }
        assert_eq!(header(&full, "x-oss-object-type"), Some("Normal"));
        assert_eq!(header(&meta, "x-oss-object-type"), None);
    }

    #[test]
    fn distortions() {
        let part = [("Range", "bytes=2-4"), ("If-Match", "\"AB12\"")];
        let whole = Distortion { ignore_range: true, ..Distortion::default() };
        assert_eq!(ask("GET", "/k", &part, whole).unwrap().status, 200);
        let shifted =
            ask("GET", "/k", &part, Distortion { shift_range: 3, ..Distortion::default() }).unwrap();
        assert_eq!(header(&shifted, "Content-Range"), Some("bytes 5-7/9"));
        assert_eq!(shifted.body.range(), Some(2..5));
        let replaced = Distortion { replaced: true, ..Distortion::default() };
        assert_eq!(ask("GET", "/k", &part, replaced).unwrap_err().code, "PreconditionFailed");
        let other = ask("HEAD", "/k", &[], replaced).unwrap();
        assert_eq!(header(&other, "ETag"), Some("\"0B12\""));
    }
}
