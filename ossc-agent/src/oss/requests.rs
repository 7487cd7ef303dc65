//! What is known of each request that is sent: begun where it is sent, filled in as its reply comes, and passed on
//! when it has ended, in whatever way: to the audit log, the metrics, and the trace. Driven by `http` and `connection`; a request whose
//! future is dropped ends too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::audit::{Audit, Line};
use super::dial::Stream;
use super::error::Error;
use crate::base::{ByteRange, Lane, Nic, chain};
use crate::metrics::{self, Counter, End};
use crate::spans::{self, Spans};

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// A range of an object.
    Get,
    /// An object's metadata.
    Head,
    /// A page of the listing.
    List,
    /// Access keys, from the metadata service or STS.
    Credentials,
    /// The doctor's look at the endpoint.
    Probe,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Credentials => "credentials",
            Self::Probe => "probe",
        }
    }
}

/// What a request asks for, and how often it was asked for before.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) operation: Operation,
    /// Key, prefix, or path without its query.
    pub(super) key: &'a str,
    pub(super) range: Option<ByteRange>,
    pub(super) lane: Option<Lane>,
    /// From 1.
    pub(super) attempt: u32,
}

impl<'a> About<'a> {
    /// A small request.
    pub(super) fn small(operation: Operation, key: &'a str, attempt: u32) -> Self {
        Self { operation, key, range: None, lane: None, attempt }
    }
}

/// Who hears of each request besides the metrics.
#[derive(Debug, Default)]
pub struct Watchers {
    /// Gets a line.
    pub audit: Option<Audit>,
    /// Gets a span, of a sample.
    pub spans: Option<Spans>,
}

/// Hears of every request of a client.
#[derive(Debug, Default)]
pub(super) struct Requests {
    watchers: Watchers,
    pub(super) metrics: metrics::Requests,
}

impl Requests {
    /// For requests through these NICs.
    pub(super) fn new(watchers: Watchers, nics: &[Nic]) -> Arc<Self> {
        Arc::new(Self { watchers, metrics: metrics::Requests::new(nics) })
    }

    /// A request is about to be sent.
    pub(super) fn begin(self: &Arc<Self>, about: About<'_>) -> Sent {
        let is_watched = self.watchers.audit.is_some() || self.watchers.spans.is_some();
        let line = is_watched.then(|| Line {
            lane: about.lane.map(Lane::name),
            ..Line::begin(about.operation.name(), about.key, about.range, about.attempt)
        });
        if about.attempt > 1 {
            self.metrics.retried(about.operation.name());
        }
        Sent {
            requests: Arc::clone(self),
            operation: about.operation,
            line: line.map(Box::new),
            begun: Instant::now(),
            took: None,
            status: None,
            code: None,
            received: None,
        }
    }
}

/// A request under way. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Sent {
    requests: Arc<Requests>,
    operation: Operation,
    /// None when nobody wants it.
    line: Option<Box<Line>>,
    begun: Instant,
    /// Time to its end, if that is known: a whole reply, or an error.
    took: Option<Duration>,
    status: Option<u16>,
    /// `Code` of OSS's error.
    code: Option<String>,
    /// Counts bytes of an object.
    received: Option<Counter>,
}

impl Sent {
    /// It goes over this connection.
    pub(super) fn over(&mut self, stream: &Stream, nic: Option<&Nic>) {
        if self.operation == Operation::Get {
            self.received = self.requests.metrics.received(nic);
        }
        if let Some(line) = &mut self.line {
            line.nic = nic.map(Nic::to_string);
            line.local = stream.local_address().map(|address| address.to_string());
        }
    }

    /// The reply's head has come.
    pub(super) fn answered(&mut self, status: u16, request_id: Option<&str>) {
        self.status = Some(status);
        if self.operation == Operation::Get {
            self.requests.metrics.answered(self.begun.elapsed());
        }
        if status >= 300 {
            // What comes is no part of an object.
            self.received = None;
        }
        if let Some(line) = &mut self.line {
            line.answered(status);
            line.request_id = request_id.map(str::to_owned);
        }
    }

    /// Bytes of the body have come.
    pub(super) fn received(&mut self, bytes: u64) {
        if let Some(received) = &self.received {
            received.inc_by(bytes);
            self.requests.watchers.spans.iter().for_each(Spans::first_bytes);
        }
        if let Some(line) = &mut self.line {
            line.bytes += bytes;
        }
    }

    /// It failed with this error, which is given back.
    pub(super) fn failed(&mut self, error: Error) -> Error {
        self.code = error.service().map(|service| service.code.clone());
        self.broke(&error);
        error
    }

    /// It failed before or beside any reply.
    pub(super) fn broke(&mut self, error: &dyn std::error::Error) {
        self.ended();
        if let Some(line) = &mut self.line {
            line.error = Some(chain(error));
        }
    }

    /// Nothing more comes.
    pub(super) fn ended(&mut self) {
        self.took.get_or_insert_with(|| self.begun.elapsed());
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let took = self.took.unwrap_or_else(|| self.begun.elapsed());
        let code = self.code.take();
        let end = match (self.took, self.status) {
            (None, _) => End::GivenUp,
            (Some(_), Some(status)) => End::Reply { status, code: code.as_deref() },
            (Some(_), None) => End::NoReply,
        };
        self.requests.metrics.ended(self.operation.name(), end, took);
        let Some(mut line) = self.line.take() else { return };
        line.code = code;
        line.ended(self.took, self.begun);
        if let Some(spans) = &self.requests.watchers.spans {
            spans.request(&spans::Request {
                operation: line.operation,
                key: &line.key,
                took,
                attempt: line.attempt,
                status: line.status,
                error: line.error.as_deref(),
                bytes: line.bytes,
            });
        }
        if let Some(audit) = &self.requests.watchers.audit {
            audit.note(*line);
        }
    }
}
