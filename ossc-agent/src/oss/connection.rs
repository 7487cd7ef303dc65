//! One kept-alive HTTP/1.1 connection for ranged GETs: the hot path. A fetch worker owns several of these and
//! uses each for one range after another. The request head is written and the reply head parsed here, without
//! an HTTP library between, so that the body can go from the socket into a reusable buffer (`body`).
//! `get` is one try; only faults that it can mend itself are tried again, each once: a kept-alive connection
//! that the server closed meanwhile, a clock that is off, keys that ran out. After any other failure the
//! connection is closed and the next `get` opens a new one.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use zeroize::Zeroizing;

use super::body::Body;
use super::client::{Repair, Shared};
use super::credentials::Credentials;
use super::deadline::within;
use super::dial::Stream;
use super::error::Error;
use super::http::AGENT;
use super::proxy::Proxy;
use super::reply::{self, ReplyHead};
use super::requests::{About, Operation, Sent};
use super::{metadata, sign};
use crate::base::{ByteRange, ETag, Lane, Nic, Object};

/// Longest reply head, bytes. OSS's are under 1 KiB, plus at most 8 KiB of user metadata
/// (help.aliyun.com "object metadata").
const MAX_HEAD: usize = 16 << 10;
/// Longest error document that is read, bytes; OSS's are about 1 KiB.
const MAX_ERROR_BODY: u64 = 64 << 10;
/// How long a signature is used again. OSS takes one for 15 minutes (`RequestTimeTooSkewed`).
const SIGNATURE_LIFE: Duration = Duration::from_secs(5 * 60);

/// One HTTP/1.1 connection, owned by one task.
pub struct Connection {
    pub(super) shared: Arc<Shared>,
    source: Option<Nic>,
    /// The open connection between two requests; taken while one is under way.
    idle: Option<Stream>,
    /// Request head of the last object, up to the `Range` header.
    prepared: Option<Prepared>,
    /// Why ranges are asked for, and which try it is.
    purpose: (Option<Lane>, u32),
    /// Where reply heads are received, each with what comes along of its body.
    pub(super) head: Box<[u8]>,
}

/// A signed request head for one version of an object, good for any range of it.
struct Prepared {
    key: String,
    etag: ETag,
    credentials: Option<Arc<Credentials>>,
    clock_offset: i64,
    made: Instant,
    /// Everything before the `Range` header's value. Holds the token.
    text: Zeroizing<String>,
}

/// A reply whose head has come.
struct Reply {
    stream: Stream,
    head: ReplyHead,
    /// What of the body came with the head, in `Connection::head`.
    begun: Range<usize>,
    sent: Sent,
}

/// Why an exchange gave no reply.
enum Broken {
    /// Nothing of a reply had come: on a kept-alive connection the server may just have closed it.
    BeforeReply(io::Error),
    /// The reply is no use.
    Reply(io::Error),
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, source: Option<Nic>) -> Self {
        let head = vec![0; MAX_HEAD].into_boxed_slice();
        Self { shared, source, idle: None, prepared: None, purpose: (None, 1), head }
    }

    /// Why the next range is asked for, and which try it is, from 1; for the audit log.
    pub fn set_purpose(&mut self, lane: Lane, attempt: u32) {
        self.purpose = (Some(lane), attempt);
    }

    /// Asks for `range` of `object` at its listed version. Resolves when the head is checked: status 206, right
    /// start, end and total, right ETag. One try, apart from what is mended here (see the head of this file).
    /// If the future is dropped, the connection is closed and may be used again.
    pub async fn get<'a>(&'a mut self, object: &Object, range: ByteRange) -> Result<Body<'a>, Error> {
        let target = self.shared.target(&object.key);
        if range.is_empty() || range.end() > object.size {
            let (start, end, size) = (range.start(), range.end(), object.size);
            return Err(Error::Range { target, start, end, size });
        }
        let mut repair = Repair::default();
        loop {
            match self.attempt(&target, object, range, &mut repair).await {
                Ok(reply) => return Ok(self.body(target, reply, range)),
                Err(error) => {
                    if !repair.mend(&self.shared, &error).await {
                        return Err(self.explained(object, error).await);
                    }
                }
            }
        }
    }

    /// A refusal of `If-Match` does not say what is there now; a HEAD does, so that the message can name both
    /// versions. Where it cannot be had, the refusal itself has to do.
    async fn explained(&self, object: &Object, error: Error) -> Error {
        if error.service().is_none_or(|service| service.status != 412) {
            return error;
        }
        let now = self.shared.head(&object.key).await;
        match now {
            Ok(now) if now.etag != object.etag => Error::Changed {
                target: self.shared.target(&object.key),
                expected: object.etag.to_string(),
                found: now.etag.to_string(),
            },
            _ => error,
        }
    }

    async fn attempt(
        &mut self,
        target: &str,
        object: &Object,
        range: ByteRange,
        repair: &mut Repair,
    ) -> Result<Reply, Error> {
        let request = self.request(target, object, range, repair).await?;
        let (lane, attempt) = self.purpose;
        let about = About { operation: Operation::Get, key: &object.key, range: Some(range), lane, attempt };
        let mut reply = self.exchange(target, &request, about).await?;
        reply.sent.answered(reply.head.status, reply.head.request_id());
        if (200..300).contains(&reply.head.status) {
            let checked = reply.head.check(target, object, range);
            let fits = checked.and_then(|()| {
                let fits = reply.begun.len() as u64 <= range.len();
                fits.then_some(()).ok_or_else(|| Error::protocol(target, "more bytes than the range has"))
            });
            return match fits {
                Ok(()) => Ok(reply),
                Err(error) => Err(reply.sent.failed(error)),
            };
        }
        let body = self.error_body(&mut reply).await;
        let whole = reply.head.error_body_length() == Some(body.len() as u64);
        let Reply { stream, head, mut sent, .. } = reply;
        self.idle = (whole && head.keep_alive).then_some(stream);
        sent.received(body.len() as u64);
        Err(sent.failed(head.service_error(target, &body, self.shared.endpoint.authority().reading_proxy())))
    }

    /// The whole request head, signed anew only if the signature at hand is not for this object, clock and key,
    /// or is old.
    async fn request(
        &mut self,
        target: &str,
        object: &Object,
        range: ByteRange,
        repair: &mut Repair,
    ) -> Result<Zeroizing<String>, Error> {
        let credentials = self.shared.credentials.get(&self.shared.dialer).await?;
        repair.used.clone_from(&credentials);
        let prepared = match self.prepared.take() {
            Some(old) if old.serves(object, credentials.as_ref(), self.shared.clock.offset_seconds()) => old,
            _ => Prepared::new(&self.shared, target, object, credentials)?,
        };
        let last = range.end().saturating_sub(1);
        let request = Zeroizing::new(format!("{}{}-{last}\r\n\r\n", *prepared.text, range.start()));
        self.prepared = Some(prepared);
        Ok(request)
    }

    /// Sends the request and receives the reply's head, on the connection at hand or else a new one.
    async fn exchange(&mut self, target: &str, request: &str, about: About<'_>) -> Result<Reply, Error> {
        let patience = self.shared.request_timeout;
        if let Some(mut stream) = self.idle.take()
            && is_quiet(&mut stream).await
        {
            let mut sent = self.shared.dialer.requests.begin(about);
            sent.over(&stream, self.source.as_ref());
            match converse(&mut stream, request, &mut self.head, patience).await {
                Ok((head, begun)) => return Ok(Reply { stream, head, begun, sent }),
                Err(Broken::BeforeReply(error)) if error.kind() != io::ErrorKind::TimedOut => {
                    sent.broke(&error);
                    tracing::debug!(%error, target, "kept-alive connection was closed; connecting again");
                }
                Err(broken) => return Err(sent.failed(broken.error(target))),
            }
        }
        let to = self.shared.endpoint.authority();
        let mut sent = self.shared.dialer.requests.begin(about);
        let connected = self.shared.dialer.connect(to, self.source.as_ref()).await;
        let mut stream = match connected {
            Ok(stream) => stream,
            Err(error) => return Err(sent.failed(Error::transport(target, "connecting", error))),
        };
        sent.over(&stream, self.source.as_ref());
        match converse(&mut stream, request, &mut self.head, patience).await {
            Ok((head, begun)) => Ok(Reply { stream, head, begun, sent }),
            Err(broken) => Err(sent.failed(broken.error(target))),
        }
    }

    /// The body of an error reply, as far as it can be had; an error here would hide the one in the reply.
    async fn error_body(&self, reply: &mut Reply) -> Vec<u8> {
        let mut body = self.head.get(reply.begun.clone()).unwrap_or_default().to_vec();
        let length = reply.head.error_body_length().unwrap_or(0).min(MAX_ERROR_BODY);
        let missing = length.saturating_sub(body.len() as u64);
        let mut rest = (&mut reply.stream).take(missing);
        if let Err(error) = within(self.shared.request_timeout, rest.read_to_end(&mut body)).await {
            tracing::debug!(%error, "the body of an error reply is incomplete");
        }
        body
    }

    fn body(&mut self, target: String, reply: Reply, range: ByteRange) -> Body<'_> {
        Body::new(self, target, reply.stream, &reply.head, (reply.begun, range.len()), reply.sent)
    }

    /// Takes the connection back after a body was received to its end.
    pub(super) fn keep(&mut self, stream: Stream) {
        self.idle = Some(stream);
    }
}

impl Broken {
    fn error(self, target: &str) -> Error {
        match self {
            Self::Reply(error) if error.kind() == io::ErrorKind::InvalidData => {
                Error::protocol(target, error.to_string())
            }
            Self::BeforeReply(error) | Self::Reply(error) => {
                Error::transport(target, "receiving the reply's head", error)
            }
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Prepared {
    fn new(
        shared: &Shared,
        target: &str,
        object: &Object,
        credentials: Option<Arc<Credentials>>,
    ) -> Result<Self, Error> {
        let etag = metadata::etag(object.etag.as_str())
            .ok_or_else(|| Error::protocol(target, "the object has no usable ETag"))?;
        let fixed = [("x-oss-range-behavior", "standard")];
        let clock_offset = shared.clock.offset_seconds();
        let signed = match &credentials {
            Some(credentials) => {
                let request = sign::Request {
                    method: "GET",
                    bucket: &shared.bucket,
                    key: &object.key,
                    query: &[],
                    headers: &fixed,
                };
                shared.signer.sign(&request, credentials, shared.clock.now())?
            }
            None => Vec::new(),
        };
        let path = shared.endpoint.path(&shared.bucket, &object.key);
        let to = shared.endpoint.authority();
        let (path, host) = (to.target(&path), to.host_header());
        let mut text = Zeroizing::new(format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: {AGENT}\r\naccept-encoding: identity\r\n\
             if-match: {etag}\r\n"
        ));
        let signed = signed.iter().map(|(name, value)| (*name, value.as_str()));
        let for_proxy = to.reading_proxy().and_then(Proxy::authorization);
        let for_proxy = for_proxy.map(|value| ("proxy-authorization", value));
        for (name, value) in fixed.into_iter().chain(signed).chain(for_proxy) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("range: bytes=");
        Ok(Self { key: object.key.clone(), etag, credentials, clock_offset, made: Instant::now(), text })
    }

    fn serves(&self, object: &Object, credentials: Option<&Arc<Credentials>>, clock_offset: i64) -> bool {
        let same_key = match (&self.credentials, credentials) {
            (Some(own), Some(current)) => Arc::ptr_eq(own, current),
            (own, current) => own.is_none() && current.is_none(),
        };
        same_key
            && self.key == object.key
            && self.etag == object.etag
            && self.clock_offset == clock_offset
            && self.made.elapsed() < SIGNATURE_LIFE
    }
}

/// Whether a kept-alive connection is open and has nothing to say. Anything else (closed by the server, or
/// bytes nobody asked for) makes it useless. One system call that does not block.
async fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0; 1];
    poll_fn(|cx| {
        let mut buffer = ReadBuf::new(&mut byte);
        Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut buffer).is_pending())
    })
    .await
}

/// Sends a request and receives a reply's head into `buffer`, all within `patience`. The range says where in it the body begins.
async fn converse(
    stream: &mut Stream,
    request: &str,
    buffer: &mut [u8],
    patience: Duration,
) -> Result<(ReplyHead, Range<usize>), Broken> {
    let mut filled = 0;
    let work = async {
        stream.wake_at_once()?;
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        receive_head(stream, buffer, &mut filled).await
    };
    let result = within(patience, work).await;
    result.map_err(|error| if filled == 0 { Broken::BeforeReply(error) } else { Broken::Reply(error) })
}

async fn receive_head(
    stream: &mut Stream,
    buffer: &mut [u8],
    filled: &mut usize,
) -> io::Result<(ReplyHead, Range<usize>)> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let mut begin = 0;
    loop {
        let received = buffer.get(begin..*filled).unwrap_or_default();
        if let Some((head, length)) = reply::parse(received).map_err(invalid)? {
            begin += length;
            if !head.is_interim() {
                return Ok((head, begin..*filled));
            }
            continue;
        }
        let room = buffer.get_mut(*filled..).unwrap_or_default();
        if room.is_empty() {
            return Err(invalid(format!("the reply's head is longer than {MAX_HEAD} bytes")));
        }
        match stream.read(room).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => *filled += count,
        }
    }
}
