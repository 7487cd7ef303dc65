//! One HTTP request, as parsed from the connection: method, target, headers, body.
//!
//! Everything is kept both raw and decoded, because signatures are computed over the decoded names and values while
//! the split of a path into bucket and key happens on the raw one. Nothing is judged here but the form.

use std::io::{self, ErrorKind, Read};

use percent_encoding::percent_decode_str;

/// Longest accepted head; OSS refuses heads of 8 KiB and more, keys alone may take 3 KiB.
const MAX_HEAD: usize = 64 << 10;
/// Longest accepted request body: the form of AssumeRoleWithOIDC, with room.
const MAX_BODY: u64 = 1 << 20;
const MAX_HEADERS: usize = 100;
const READ_STEP: usize = 4096;

/// A request.
#[derive(Debug, Default, Clone)]
pub(crate) struct Request {
    /// `GET`, `HEAD`, ...
    pub(crate) method: String,
    /// Path as sent, percent-encoded, without the query.
    pub(crate) path: String,
    /// Query as sent, without the question mark.
    pub(crate) raw_query: String,
    /// Decoded parameters in the order they came; a parameter without `=` has an empty value.
    pub(crate) query: Vec<(String, String)>,
    /// Headers with lower-case names, in the order they came.
    pub(crate) headers: Vec<(String, String)>,
    /// Body, only of requests that have one.
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The value of the first header with this lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The decoded value of the first query parameter with this name.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The parameter, if it is there and not empty.
    pub(crate) fn filled_param(&self, name: &str) -> Option<&str> {
        self.param(name).filter(|value| !value.is_empty())
    }

    /// The host name of the `Host` header, without the port.
    pub(crate) fn host(&self) -> &str {
        let host = self.header("host").unwrap_or_default();
        match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        }
    }

    /// Builds a request from a method, a target and headers.
    pub(crate) fn new<'a>(
        method: &str,
        target: &str,
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Self {
        let (path, raw_query) = target.split_once('?').unwrap_or((target, ""));
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            raw_query: raw_query.to_owned(),
            query: parse_query(raw_query),
            headers: headers
                .into_iter()
                .map(|(name, value)| {
                    (name.to_ascii_lowercase(), String::from_utf8_lossy(value).trim().to_owned())
                })
                .collect(),
            body: Vec::new(),
        }
    }
}

/// Splits and decodes a query or a form body; `+` is a space.
pub(crate) fn parse_query(raw: &str) -> Vec<(String, String)> {
    raw.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_param(name), decode_param(value))
        })
        .collect()
}

/// Percent-decodes a path; `None` if it is not UTF-8.
pub(crate) fn decode_path(raw: &str) -> Option<String> {
    percent_decode_str(raw).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

fn decode_param(raw: &str) -> String {
    percent_decode_str(&raw.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// Reads requests off one connection.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Bytes received and not yet used.
    pending: Vec<u8>,
}

impl Reader {
    /// The next request; `None` when the client closed the connection between requests.
    pub(crate) fn next(&mut self, stream: &mut impl Read) -> io::Result<Option<Request>> {
        loop {
            if let Some((mut request, used)) = parse_head(&self.pending)? {
                self.pending.drain(..used);
                request.body = self.read_body(&request, stream)?;
                return Ok(Some(request));
            }
            if self.pending.len() > MAX_HEAD {
                return Err(io::Error::new(ErrorKind::InvalidData, "request head is too long"));
            }
            if !self.receive(stream)? {
                let clean = self.pending.is_empty();
                return if clean { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    fn read_body(&mut self, request: &Request, stream: &mut impl Read) -> io::Result<Vec<u8>> {
        let Some(length) = request.header("content-length") else { return Ok(Vec::new()) };
        let length = length.parse::<u64>().ok().filter(|&length| length <= MAX_BODY);
        let length = length.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "bad Content-Length"))?;
        let length = usize::try_from(length).map_err(|_| ErrorKind::InvalidData)?;
        while self.pending.len() < length {
            if !self.receive(stream)? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.pending.drain(..length).collect())
    }

    /// Takes in more bytes; false at the end of the stream.
    fn receive(&mut self, stream: &mut impl Read) -> io::Result<bool> {
        let mut buffer = [0; READ_STEP];
        loop {
            match stream.read(&mut buffer) {
                Ok(len) => {
                    self.pending.extend_from_slice(&buffer[..len]);
                    return Ok(len > 0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The request at the start of `bytes` and the length of its head; `None` if the head is not complete.
fn parse_head(bytes: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let status = head.parse(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    let httparse::Status::Complete(used) = status else { return Ok(None) };
    let request = Request::new(
        head.method.unwrap_or_default(),
        head.path.unwrap_or_default(),
        head.headers.iter().map(|header| (header.name, header.value)),
    );
    Ok(Some((request, used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_follow_each_other_on_one_connection() {
        let wire = b"GET /a%2Fb?x=1+2&y=%2F&z HTTP/1.1\r\nHost: b.localhost:80\r\nRange:  bytes=0-9 \r\n\r\n\
            POST /?Action=A HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nk=vHEAD / HTTP/1.1\r\n\r\n";
        let mut stream = wire.as_slice();
        let mut reader = Reader::default();
        let first = reader.next(&mut stream).unwrap().unwrap();
        assert_eq!(
            (first.method.as_str(), first.path.as_str(), first.host()),
            ("GET", "/a%2Fb", "b.localhost")
        );
        assert_eq!(first.param("x"), Some("1 2"));
        assert_eq!(first.param("y"), Some("/"));
        assert_eq!((first.param("z"), first.filled_param("z")), (Some(""), None));
        assert_eq!(first.header("range"), Some("bytes=0-9"));
        let second = reader.next(&mut stream).unwrap().unwrap();
        assert_eq!(second.body, b"k=v");
        assert_eq!(reader.next(&mut stream).unwrap().unwrap().method, "HEAD");
        assert!(reader.next(&mut stream).unwrap().is_none());
    }

    #[test]
    fn broken_requests_are_errors() {
        for wire in ["GET / HTTP/1.1\r\nHost", "\0\r\n\r\n", "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"] {
            assert!(Reader::default().next(&mut wire.as_bytes()).is_err(), "{wire:?}");
        }
        let endless = std::iter::repeat_n(b"a: b\r\n".as_slice(), MAX_HEAD).flatten().copied();
        let wire: Vec<u8> = b"GET / HTTP/1.1\r\n".iter().copied().chain(endless).collect();
        assert!(Reader::default().next(&mut wire.as_slice()).is_err());
    }
}
