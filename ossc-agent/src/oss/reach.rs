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

/// Time for name, connection, TLS and reply.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Whatever the endpoint has to say to a request without a signature.
const MAX_REPLY_BYTES: usize = 1 << 20;

/// What a look at the endpoint showed.
#[derive(Debug, Clone)]
pub struct Reach {
    /// What its name resolves to.
    pub addresses: Vec<SocketAddr>,
    /// From dial to the end of the reply.
    pub took: Duration,
    /// Seconds by which its clock is ahead of ours; None without a `Date` header.
    pub ahead_seconds: Option<i64>,
}

impl Client {
    /// Resolves the endpoint's name and exchanges one request with it. Any reply will do.
    pub async fn reach(&self) -> Result<Reach, Error> {
        let authority = self.shared.endpoint.authority();
        let about = authority.host_header();
        let lookup = tokio::net::lookup_host((authority.host.as_str(), authority.port)).await;
        let addresses = lookup.map_err(|error| Error::transport(&about, "resolving", error))?.collect();
        let request =
            http::Request { method: Method::HEAD, authority, target: "/", headers: &[], body: Bytes::new() };
        let began = Instant::now();
        let limits = Limits { time: TIMEOUT, body_bytes: MAX_REPLY_BYTES };
        let reply = http::exchange(&self.shared.dialer, request, limits)
            .await
            .map_err(|error| Error::transport(&about, "HEAD /", error))?;
        let date = reply.header("date").and_then(|date| httpdate::parse_http_date(date).ok());
        let ahead_seconds = date.map(|date| clock::offset(date, SystemTime::now()));
        Ok(Reach { addresses, took: began.elapsed(), ahead_seconds })
    }
}
