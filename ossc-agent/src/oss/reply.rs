//! The head of a reply on the data path, and whether it is the reply that was asked for. Pure. Strict on
//! purpose: a reply is used only if it is a 206 with a known length, exactly the range asked for, of an object
//! of the size and ETag that were listed. A server that ignores `Range` answers 200 with the whole object,
//! whose first bytes in the wrong place would be silent corruption.

use super::error::{Error, ReplyFacts, ServiceError};
use super::metadata::{self, CRC64_HEADER};
use super::proxy::{self, Proxy};
use crate::base::{ByteRange, Object};

/// Most headers of a reply; OSS sends about 20, and `x-oss-meta-*` of the user's.
const MAX_HEADERS: usize = 128;

/// What matters of a reply's head.
#[derive(Debug, Default)]
pub(super) struct ReplyHead {
    pub(super) status: u16,
    /// `Content-Length`.
    pub(super) length: Option<u64>,
    /// `x-oss-hash-crc64ecma`.
    pub(super) crc64: Option<u64>,
    /// Whether the server will take another request on this connection.
    pub(super) keep_alive: bool,
    /// `Transfer-Encoding` is there: the body cannot be told from what follows without decoding it.
    transfer_encoded: bool,
    /// `Content-Encoding` other than identity.
    content_encoded: bool,
    content_range: Option<String>,
    etag: Option<String>,
    request_id: Option<String>,
    ec: Option<String>,
    date: Option<String>,
}

/// Parses a head at the start of `bytes`. None = not complete yet; else the head and its length in bytes.
/// The error says what is wrong.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(ReplyHead, usize)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes).map_err(|error| format!("no HTTP reply: {error}"))? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(length) => length,
    };
    let status = response.code.ok_or("no status")?;
    let mut head = ReplyHead { status, keep_alive: response.version == Some(1), ..ReplyHead::default() };
    for header in response.headers.iter() {
        head.take(header.name, String::from_utf8_lossy(header.value).trim())?;
    }
    Ok(Some((head, length)))
}

impl ReplyHead {
    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                let length: u64 = value.parse().ok().filter(|_| digits).ok_or("bad Content-Length")?;
                if self.length.is_some_and(|other| other != length) {
                    return Err("two different Content-Length".to_owned());
                }
                self.length = Some(length);
            }
            "transfer-encoding" => self.transfer_encoded = true,
            "content-encoding" => self.content_encoded = !value.eq_ignore_ascii_case("identity"),
            "connection" => {
                let has = |token: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token));
                self.keep_alive = !has("close") && (self.keep_alive || has("keep-alive"));
            }
            "content-range" => self.content_range = Some(value.to_owned()),
            "etag" => self.etag = Some(value.to_owned()),
            "date" => self.date = Some(value.to_owned()),
            CRC64_HEADER => self.crc64 = value.parse().ok(),
            "x-oss-request-id" => self.request_id = Some(value.to_owned()),
            "x-oss-ec" => self.ec = Some(value.to_owned()),
            _ => {}
        }
        Ok(())
    }

    /// `x-oss-request-id`.
    pub(super) fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// Whether this only announces the real reply (100 Continue and its like).
    pub(super) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status)
    }

    /// The length of the body of an error reply, if it can be read: it must be framed by its length.
    pub(super) fn error_body_length(&self) -> Option<u64> {
        self.length.filter(|_| !self.transfer_encoded)
    }

    /// What OSS says in a reply that is not a success.
    pub(super) fn service_error(&self, target: &str, body: &[u8], proxy: Option<&Proxy>) -> Error {
        let facts = ReplyFacts {
            status: self.status,
            request_id: self.request_id.as_deref(),
            ec: self.ec.as_deref(),
            err: None,
            date: self.date.as_deref(),
            proxy: proxy::answerer(proxy, self.request_id.as_deref()),
            body,
        };
        Error::Service(Box::new(ServiceError::new("GET", target, &facts)))
    }

    /// Whether the body is exactly `range` of `object`.
    pub(super) fn check(&self, target: &str, object: &Object, range: ByteRange) -> Result<(), Error> {
        let refuse = |reason: String| {
            let id = self.request_id.as_deref().unwrap_or("none");
            Err(Error::protocol(target, format!("{reason} (request id {id})")))
        };
        if self.status != 206 {
            return refuse(format!("status {} to a range request instead of 206", self.status));
        }
        if self.transfer_encoded {
            return refuse("Transfer-Encoding on a range".to_owned());
        }
        if self.content_encoded {
            return refuse("Content-Encoding that was not asked for".to_owned());
        }
        let Some(etag) = self.etag.as_deref().and_then(metadata::etag) else {
            return refuse("no usable ETag".to_owned());
        };
        if etag != object.etag {
            return Err(Error::Changed {
                target: target.to_owned(),
                expected: object.etag.to_string(),
                found: etag.to_string(),
            });
        }
        let expected = format!("bytes {}-{}/{}", range.start(), range.end() - 1, object.size);
        let found = self.content_range.as_deref().unwrap_or("none");
        if found != expected {
            return refuse(format!("Content-Range '{found}' instead of '{expected}'"));
        }
        if self.length != Some(range.len()) {
            return refuse(format!("Content-Length {:?} for {} bytes", self.length, range.len()));
        }
        Ok(())
    }
}
