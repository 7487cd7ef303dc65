//! One HTTP request and its whole reply, for everything small: listings, metadata, credentials. Each request
//! dials a connection of its own, bounded in time and size; TLS sessions are resumed. Object data does not
//! come through here (see `connection`). Failures are plain I/O errors; callers add what they asked for.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{ACCEPT_ENCODING, HOST, HeaderMap, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use hyper::http::response::Parts;
use hyper::{Method, Request as HttpRequest};
use hyper_util::rt::TokioIo;
use zeroize::Zeroizing;

use super::deadline::within;
use super::dial::{Dialer, Stream};
use super::endpoint::Authority;
use super::proxy::Proxy;
use super::requests::{About, Sent};

/// Sent with every request, so that a bucket's access log shows who read.
pub(super) const AGENT: &str = concat!("ossc-agent/", env!("CARGO_PKG_VERSION"));

/// A request to send.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) authority: &'a Authority,
    /// Request target: path and query, encoded.
    pub(super) target: &'a str,
    /// Headers beyond `Host`, `User-Agent` and `Accept-Encoding`.
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: Bytes,
    /// For whoever hears of requests.
    pub(super) about: About<'a>,
}

/// What one exchange may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// From dial to the last byte of the reply.
    pub(super) time: Duration,
    /// Size of the reply's body.
    pub(super) body_bytes: usize,
}

/// A reply with its whole body, which may hold keys and is wiped.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Zeroizing<Vec<u8>>,
    /// The request, which has ended; for what more can be said of it.
    pub(super) sent: Sent,
}

impl Reply {
    /// A header as text; None when absent or not ASCII.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Sends `request` on a new connection and reads the whole reply.
pub(super) async fn exchange(dialer: &Dialer, request: Request<'_>, limits: Limits) -> io::Result<Reply> {
    let mut sent = dialer.requests.begin(request.about);
    let work = async {
        let built = build(&request)?;
        let (stream, nic) = dialer.connect_from_any(request.authority).await?;
        sent.over(&stream, nic);
        converse(stream, built, limits.body_bytes).await
    };
    match within(limits.time, work).await {
        Ok((head, body)) => {
            let id = head.headers.get("x-oss-request-id").and_then(|id| id.to_str().ok());
            sent.answered(head.status.as_u16(), id);
            sent.received(body.len() as u64);
            sent.ended();
            Ok(Reply { status: head.status.as_u16(), headers: head.headers, body, sent })
        }
        Err(error) => {
            sent.broke(&error);
            Err(error)
        }
    }
}

fn build(request: &Request<'_>) -> io::Result<HttpRequest<Full<Bytes>>> {
    let mut builder = HttpRequest::builder()
        .method(&request.method)
        .uri(&*request.authority.target(request.target))
        .header(HOST, request.authority.host_header())
        .header(USER_AGENT, AGENT)
        .header(ACCEPT_ENCODING, "identity");
    let for_proxy = request.authority.reading_proxy().and_then(Proxy::authorization);
    let for_proxy = for_proxy.map(|value| (PROXY_AUTHORIZATION.as_str(), value));
    for (name, value) in request.headers.iter().copied().chain(for_proxy) {
        let mut value = HeaderValue::from_str(value).map_err(io::Error::other)?;
        value.set_sensitive(true);
        builder = builder.header(name, value);
    }
    builder.body(Full::new(request.body.clone())).map_err(io::Error::other)
}

async fn converse(
    stream: Stream,
    request: HttpRequest<Full<Bytes>>,
    body_limit: usize,
) -> io::Result<(Parts, Zeroizing<Vec<u8>>)> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let exchange = async {
        let reply = sender.send_request(request).await.map_err(io::Error::other)?;
        let (head, body) = reply.into_parts();
        let body = Limited::new(body, body_limit).collect().await.map_err(io::Error::other)?.to_bytes();
        Ok((head, Zeroizing::new(body.into())))
    };
    let mut exchange = pin!(exchange);
    // The connection makes the exchange move; how it ends is seen by the exchange as well.
    tokio::select! {
        biased;
        result = &mut exchange => result,
        _ = connection => exchange.await,
    }
}
