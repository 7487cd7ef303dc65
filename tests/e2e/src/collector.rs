//! A collector of OpenTelemetry traces: takes what is sent to it over HTTP and gives the spans, decoded.
//!
//! Driven by the tests of traces. It ends, with its thread, when it is dropped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use prost::Message;

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    taken: Mutex<Vec<anyhow::Result<ExportTraceServiceRequest>>>,
    ends: AtomicBool,
}

impl Collector {
    /// Starts one that answers everything with this status.
    pub fn start(status: &'static str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, shared) = (listener.local_addr()?, Arc::new(Shared::default()));
        let hears = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if hears.ends.load(Ordering::Acquire) {
                    return;
                }
                let request = stream.map_err(anyhow::Error::from).and_then(|stream| take(stream, status));
                hears.taken.lock().unwrap_or_else(PoisonError::into_inner).push(request);
            }
        });
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that was sent so far; an error if something was none of the protocol.
    pub fn taken(&self) -> anyhow::Result<Vec<ResourceSpans>> {
        let taken = std::mem::take(&mut *self.shared.taken.lock().unwrap_or_else(PoisonError::into_inner));
        let requests: Vec<_> = taken.into_iter().collect::<anyhow::Result<_>>()?;
        Ok(requests.into_iter().flat_map(|request| request.resource_spans).collect())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        drop(TcpStream::connect(self.address));
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn take(stream: TcpStream, status: &str) -> anyhow::Result<ExportTraceServiceRequest> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line)? > 2 {
        head.push_str(&line.to_ascii_lowercase());
        line.clear();
    }
    ensure!(head.starts_with("post /v1/traces http/1.1"), "{head}");
    ensure!(head.contains("content-type: application/x-protobuf"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.with_context(|| head.clone())?.parse()?];
    reader.read_exact(&mut body)?;
    let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    reader.get_mut().write_all(reply.as_bytes())?;
    Ok(ExportTraceServiceRequest::decode(body.as_slice())?)
}

/// A text among attributes.
#[must_use]
pub fn text<'a>(
    attributes: &'a [opentelemetry_proto::tonic::common::v1::KeyValue],
    key: &str,
) -> Option<&'a str> {
    match attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}
