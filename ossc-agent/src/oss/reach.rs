//! Whether the endpoint can be reached, and what time it is there: one unsigned request that needs no
//! permission. For the doctor; loads do not call it.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hyper::Method;

use super::client::Client;
use super::clock;
use super::error::Error;
use super::http::{self, Limits};
use super::requests::{About, Operation};

/// Time for name, connection, TLS and reply.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Whatever the endpoint has to say to a request without a signature.
const MAX_REPLY_BYTES: usize = 1 << 20;

/// What a look at the endpoint showed.
#[derive(Debug, Clone)]
pub struct Reach {
    /// From dial to the end of the reply.
    pub took: Duration,
    /// Seconds by which its clock is ahead of ours; None without a `Date` header.
    pub ahead_seconds: Option<i64>,
}

impl Client {
    /// What the name of the endpoint, or of the proxy before it, resolves to.
    pub async fn addresses(&self) -> Result<Vec<SocketAddr>, Error> {
        let authority = self.shared.endpoint.authority();
        let lookup = tokio::net::lookup_host(authority.next_hop()).await;
        let found = lookup.map_err(|error| Error::transport(&authority.host_header(), "resolving", error))?;
        Ok(found.collect())
    }

    /// Exchanges one request with the endpoint. Any reply will do.
    pub async fn reach(&self) -> Result<Reach, Error> {
        let authority = self.shared.endpoint.authority();
        let about = authority.host_header();
        let request = http::Request {
            method: Method::HEAD,
            authority,
            target: "/",
            headers: &[],
            body: Bytes::new(),
            about: About::small(Operation::Probe, "/", 1),
        };
        let began = Instant::now();
        let limits = Limits { time: TIMEOUT, body_bytes: MAX_REPLY_BYTES };
        let reply = http::exchange(&self.shared.dialer, request, limits)
            .await
            .map_err(|error| Error::transport(&about, "HEAD /", error))?;
        let date = reply.header("date").and_then(|date| httpdate::parse_http_date(date).ok());
        let ahead_seconds = date.map(|date| clock::offset(date, SystemTime::now()));
        Ok(Reach { took: began.elapsed(), ahead_seconds })
    }
}
