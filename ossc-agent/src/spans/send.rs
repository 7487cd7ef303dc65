//! One POST to the collector: the exporter's way out, with the HTTP library that is here anyway. Driven by the exporter, on
//! the thread that sends batches and does nothing else, so it may wait.

use std::io;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::{Parts, Uri};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

/// Of an address that names none.
const PORT: u16 = 80;
/// Longest reply that is read, bytes: one that says which spans were refused is short.
const REPLY: usize = 64 << 10;

/// Sends batches, each over a connection of its own.
#[derive(Debug)]
pub(super) struct Client {
    runtime: Runtime,
    timeout: Duration,
    /// How the last batch failed; said once until one is taken again.
    failure: Mutex<Option<String>>,
}

impl Client {
    pub(super) fn new(timeout: Duration) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, timeout, failure: Mutex::default() })
    }

    fn tell(&self, outcome: &Result<Response<Bytes>, HttpError>) {
        let failure = match outcome {
            Ok(reply) if reply.status().is_success() => None,
            Ok(reply) => Some(format!("status {}", reply.status())),
            Err(error) => Some(error.to_string()),
        };
        let mut last = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(failure), None) = (&failure, &*last) {
            tracing::warn!(failure, "the collector took no spans; they are lost until it does");
        }
        *last = failure;
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let exchange = async { tokio::time::timeout(self.timeout, exchange(request)).await };
        // Nothing else runs on this thread, and what calls this has no event loop of tokio.
        let outcome = self.runtime.block_on(exchange).unwrap_or_else(|elapsed| Err(elapsed.into()));
        self.tell(&outcome);
        outcome
    }
}

async fn exchange(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().ok_or("an address without a host")?.clone();
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(PORT))).await?;
    let mut target = Parts::default();
    target.path_and_query = head.uri.path_and_query().cloned();
    head.uri = Uri::from_parts(target)?;
    head.headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let (head, body) =
            sender.send_request(Request::from_parts(head, Full::new(body))).await?.into_parts();
        let body = Limited::new(body, REPLY).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    let mut exchange = pin!(exchange);
    tokio::select! {
        biased;
        reply = &mut exchange => reply,
        _ = connection => exchange.await,
    }
}
