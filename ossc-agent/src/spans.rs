//! The load as a trace of OpenTelemetry, for whoever looks at services with such a tool: one span for the load, below it
//! one for each step, each file and a sample of the requests to OSS. They go to a collector (OTLP, protobuf over HTTP) in
//! batches, from a thread of their own; what a collector does not take is dropped, and the load goes on. Made by `agent`;
//! steps are told where they happen (`agent`, `oss`). docs/status.md lists the spans.

mod send;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use hyper::Uri;
use opentelemetry::trace::{
    Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span};

/// Of this many requests that went well one is sent; a load of 664 GB has some 80 000.
const SAMPLE: u64 = 100;
/// What a collector may take for one batch.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Where a collector takes traces when the address names no path (OTLP specification, "OTLP/HTTP Request").
const PATH: &str = "/v1/traces";

/// The trace of a run; clones share it.
#[derive(Debug, Clone)]
pub struct Spans(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    /// The span of the load, until it ends.
    load: Mutex<Option<Span>>,
    /// What makes a span a child of it.
    parent: Context,
    began: SystemTime,
    has_bytes: AtomicBool,
    /// Requests that went well.
    requests: AtomicU64,
}

/// A request that has ended.
#[derive(Debug)]
pub struct Request<'a> {
    /// get, head, list, credentials or probe.
    pub operation: &'static str,
    /// Key of an object, or prefix.
    pub key: &'a str,
    /// How long it took, until now.
    pub took: Duration,
    /// From 1.
    pub attempt: u32,
    /// HTTP status, where there was one.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: Option<&'a str>,
    /// Bytes of the reply's body.
    pub bytes: u64,
}

/// Whether spans can be sent there: `http://HOST[:PORT][/PATH]`. Called by `config`.
#[must_use]
pub fn is_collector(uri: &Uri) -> bool {
    uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty())
}

impl Spans {
    /// Begins the span of the load. `collector` as [`is_collector`] wants it; `give_up` takes from a thread what it does not
    /// need for sending.
    ///
    /// # Errors
    /// When the kernel refuses a thread.
    pub fn start(collector: &Uri, give_up: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let endpoint = match collector.path() {
            "" | "/" => format!("{}{PATH}", collector.to_string().trim_end_matches('/')),
            _ => collector.to_string(),
        };
        // What sends them is a thread of the provider's, which has the rights of the one that makes it.
        let make = thread::Builder::new().name("ossc-spans".into()).spawn(move || {
            give_up();
            provider(endpoint)
        })?;
        let provider = make.join().map_err(|_| io::Error::other("the thread panicked"))??;
        let tracer = provider.tracer("ossc-agent");
        let began = SystemTime::now();
        let load =
            tracer.span_builder("load").with_start_time(began).start_with_context(&tracer, &Context::new());
        let about = load.span_context().clone();
        tracing::info!(%collector, trace = %about.trace_id(), "the load is traced");
        Ok(Self(Arc::new(Inner {
            provider,
            tracer,
            load: Mutex::new(Some(load)),
            parent: Context::new().with_remote_span_context(about),
            began,
            has_bytes: AtomicBool::new(false),
            requests: AtomicU64::new(0),
        })))
    }

    /// When the load began.
    #[must_use]
    pub fn began(&self) -> SystemTime {
        self.0.began
    }

    /// A step has ended that began then.
    pub fn step(
        &self,
        name: &'static str,
        began: SystemTime,
        about: impl IntoIterator<Item = (&'static str, Value)>,
    ) {
        self.begin(name, SpanKind::Internal, began, about).end();
    }

    /// A request has ended. Of those that went well most are passed over.
    pub fn request(&self, request: &Request<'_>) {
        let is_plain = request.error.is_none() && request.attempt == 1;
        if is_plain && !self.0.requests.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLE) {
            return;
        }
        let now = SystemTime::now();
        let began = now.checked_sub(request.took).unwrap_or(now);
        let about = [
            ("oss.operation", request.operation.into()),
            ("oss.key", request.key.to_owned().into()),
            ("oss.attempt", i64::from(request.attempt).into()),
            ("oss.bytes", number(request.bytes)),
        ];
        let status = request.status.map(|status| ("http.response.status_code", i64::from(status).into()));
        let about = about.into_iter().chain(status);
        let mut span = self.begin("request", SpanKind::Client, began, about);
        if let Some(error) = request.error {
            span.set_status(Status::error(error.to_owned()));
        }
        span.end_with_timestamp(now);
    }

    /// Bytes of an object come. Costs next to nothing but for the first.
    pub fn first_bytes(&self) {
        if !self.0.has_bytes.load(Ordering::Relaxed) && !self.0.has_bytes.swap(true, Ordering::Relaxed) {
            self.step("first byte", self.0.began, []);
        }
    }

    /// The load has ended: complete, or with so many files that are not.
    pub fn end(&self, files: usize, incomplete: usize, bytes: u64) {
        let Some(mut load) = self.0.load.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        load.set_attribute(KeyValue::new("ossc.files", number(files as u64)));
        load.set_attribute(KeyValue::new("ossc.bytes", number(bytes)));
        if incomplete > 0 {
            load.set_status(Status::error(format!("{incomplete} files are not complete")));
        }
        load.end();
    }

    /// Sends what is left, for a short time. Called by the agent at the end of the run.
    pub fn finish(&self, limit: Duration) {
        if let Err(error) = self.0.provider.shutdown_with_timeout(limit) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }

    fn begin(
        &self,
        name: &'static str,
        kind: SpanKind,
        began: SystemTime,
        about: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Span {
        let about = about.into_iter().map(|(key, value)| KeyValue::new(key, value));
        let span = self.0.tracer.span_builder(name).with_kind(kind).with_start_time(began);
        span.with_attributes(about).start_with_context(&self.0.tracer, &self.0.parent)
    }
}

/// Numbers have 64 bits and a sign there.
#[must_use]
pub fn number(number: u64) -> Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

fn provider(endpoint: String) -> io::Result<SdkTracerProvider> {
    let client = send::Client::new(TIMEOUT)?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .with_timeout(TIMEOUT)
        .build()
        .map_err(io::Error::other)?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let host = host.map(|host| KeyValue::new("host.name", host.trim().to_owned()));
    let resource = Resource::builder()
        .with_service_name("ossc-agent")
        .with_attributes([version].into_iter().chain(host));
    Ok(SdkTracerProvider::builder()
        .with_sampler(Sampler::AlwaysOn)
        .with_resource(resource.build())
        .with_batch_exporter(exporter)
        .build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_named_by_an_http_address() {
        for (address, is_one) in [
            ("http://127.0.0.1:4318", true),
            ("http://collector.local/otlp/v1/traces", true),
            ("https://collector.local", false),
            ("collector:4318", false),
            ("/v1/traces", false),
        ] {
            assert_eq!(address.parse::<Uri>().is_ok_and(|uri| is_collector(&uri)), is_one, "{address}");
        }
    }
}
