//! One reply: status, headers, and where its body comes from.

use std::fmt::Write as _;
use std::ops::Range;

use crate::content::Source;
use crate::error::OssError;

/// Where the bytes of a body come from.
#[derive(Debug)]
pub(crate) enum Body {
    /// A document, or nothing.
    Text(Vec<u8>),
    /// These bytes of an object.
    Object {
        /// The opened object.
        source: Source,
        /// Which bytes of it.
        range: Range<u64>,
    },
}

impl Body {
    /// Bytes of the body.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Text(text) => u64::try_from(text.len()).unwrap_or(u64::MAX),
            Self::Object { range, .. } => range.end - range.start,
        }
    }

    /// Which bytes of its object it has.
    pub(crate) fn range(&self) -> Option<Range<u64>> {
        match self {
            Self::Text(_) => None,
            Self::Object { range, .. } => Some(range.clone()),
        }
    }
}

/// A reply.
#[derive(Debug)]
pub(crate) struct Response {
    /// HTTP status.
    pub(crate) status: u16,
    /// OSS error code, for the log.
    pub(crate) code: Option<String>,
    /// Headers beyond those every reply has.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// `Content-Length`: the body's, or that of the object a HEAD asks about.
    pub(crate) length: u64,
    /// The body.
    pub(crate) body: Body,
}

impl Response {
    /// A reply without a body.
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, code: None, headers: Vec::new(), length: 0, body: Body::Text(Vec::new()) }
    }

    /// A reply with a document.
    pub(crate) fn text(status: u16, content_type: &str, text: impl Into<Vec<u8>>) -> Self {
        let body = Body::Text(text.into());
        let headers = vec![("Content-Type", content_type.to_owned())];
        Self { status, code: None, headers, length: body.len(), body }
    }

    /// A reply with an error document; a reply to HEAD carries it in a header.
    pub(crate) fn error(error: &OssError, head: bool, request_id: &str, host: &str) -> Self {
        use base64::Engine as _;
        let document = error.document(request_id, host);
        let mut response = if head {
            let encoded = base64::prelude::BASE64_STANDARD.encode(document);
            let mut response = Self::empty(error.status);
            response.headers.push(("x-oss-err", encoded));
            response
        } else {
            Self::text(error.status, "application/xml", document)
        };
        response.headers.push(("x-oss-ec", error.ec.to_owned()));
        response.code = Some(error.code.clone().into_owned());
        response
    }

    /// Adds or replaces a header.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.into()));
    }

    /// The bytes of the head; the headers of `instead` take the place of others of their name.
    pub(crate) fn head(&self, common: &[(&str, &str)], instead: &[(String, String)]) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        let own = self.headers.iter().map(|(name, value)| (*name, value.as_str()));
        let length = self.length.to_string();
        // RFC 9110 15.4.5: a 304 has no body whatever its length says; OSS sends no length with it.
        let length = (self.status != 304).then_some(("Content-Length", length.as_str()));
        let right = common.iter().copied().chain(own).chain(length);
        let is_right = |name: &str| !instead.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        let wrong = instead.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in right.filter(|(name, _)| is_right(name)).chain(wrong) {
            // A value from a request must not end the header early.
            let value = value.replace(['\r', '\n'], " ");
            if write!(head, "{name}: {value}\r\n").is_err() {
                break;
            }
        }
        head.push_str("\r\n");
        head
    }
}

/// The reason phrase of a status; clients ignore it.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        412 => "Precondition Failed",
        416 => "Requested Range Not Satisfiable",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}
