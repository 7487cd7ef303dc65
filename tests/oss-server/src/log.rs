//! The request log: what arrived, when, and how much was really sent back.
//!
//! Tests ask it, wait on it, and count with it; the program writes it as one JSON line a request. An entry exists from
//! the moment a request is understood, so a test can wait for a request the server is holding; the line is written
//! when the reply has ended.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::auth::Authorization;
use crate::sync::{lock, wait_until};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// GetObject.
    Get,
    /// HeadObject.
    Head,
    /// GetObjectMeta: HEAD with `?objectMeta`.
    Meta,
    /// ListObjectsV2.
    List,
    /// Instance metadata, for credentials.
    Metadata,
    /// AssumeRoleWithOIDC.
    Sts,
    /// Anything else; answered with an error.
    #[default]
    Other,
}

/// How a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// Not yet: the reply is being sent or held.
    #[default]
    Running,
    /// All that the head declared was sent.
    Complete,
    /// A fault closed the connection early.
    Cut,
    /// A fault reset the connection.
    Reset,
    /// The client closed the connection, or the server stopped.
    Gone,
}

/// One request and its reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Number of the request, from 1, in the order of arrival.
    pub id: u64,
    /// Number of the connection, from 1.
    pub connection: u64,
    /// Where the request came from.
    pub peer: SocketAddr,
    /// The operation.
    pub operation: Operation,
    /// HTTP method.
    pub method: String,
    /// Bucket the request names.
    pub bucket: String,
    /// Decoded key; the prefix of a listing; the path of a metadata request.
    pub key: String,
    /// Query as sent.
    pub query: String,
    /// Bytes of the object the reply carries; `None` without a body of object bytes.
    pub range: Option<Range<u64>>,
    /// The `Range` header as sent.
    pub range_header: Option<String>,
    /// The `If-Match` header as sent.
    pub if_match: Option<String>,
    /// How the request was signed.
    pub authorization: Authorization,
    /// HTTP status; 0 until the reply begins or if there never was one.
    pub status: u16,
    /// `x-oss-request-id` of the reply; empty if there never was one.
    pub request_id: String,
    /// OSS error code of the reply.
    pub code: Option<String>,
    /// Body bytes handed to the socket.
    pub sent: u64,
    /// When the head had been read.
    pub started: Instant,
    /// When the reply ended.
    pub ended: Option<Instant>,
    /// How it ended.
    pub end: End,
}

/// An entry as a JSON line. Times in nanoseconds since the server started; `time` in milliseconds since 1970.
#[derive(Serialize)]
struct Line<'a> {
    id: u64,
    connection: u64,
    source: String,
    operation: Operation,
    method: &'a str,
    bucket: &'a str,
    key: &'a str,
    query: &'a str,
    range_header: Option<&'a str>,
    range: Option<[u64; 2]>,
    authorization: Authorization,
    status: u16,
    code: Option<&'a str>,
    sent: u64,
    time: u64,
    start_ns: u64,
    end_ns: u64,
    end: End,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    next: u64,
    connections: u64,
    file: Option<File>,
}

/// The request log of one server.
#[derive(Debug)]
pub struct Log {
    state: Mutex<State>,
    changed: Condvar,
    began: Instant,
    began_unix: Duration,
    /// Whether entries are kept after their end, for tests to ask.
    keep: bool,
}

impl Log {
    /// A log that also writes lines to `file`, if one is named, and keeps entries if `keep`.
    pub(crate) fn new(file: Option<&Path>, keep: bool) -> io::Result<Self> {
        let file = file.map(File::create).transpose()?;
        Ok(Self {
            state: Mutex::new(State { file, ..State::default() }),
            changed: Condvar::new(),
            began: Instant::now(),
            began_unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            keep,
        })
    }

    /// All requests so far in order of arrival, also those under way.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        lock(&self.state).entries.clone()
    }

    /// The requests the filter accepts.
    #[must_use]
    pub fn select(&self, filter: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        lock(&self.state).entries.iter().filter(|entry| filter(entry)).cloned().collect()
    }

    /// How many requests the filter accepts.
    #[must_use]
    pub fn count(&self, filter: impl Fn(&Entry) -> bool) -> usize {
        lock(&self.state).entries.iter().filter(|entry| filter(entry)).count()
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        lock(&self.state).connections
    }

    /// Body bytes handed to sockets so far, for requests the filter accepts.
    #[must_use]
    pub fn bytes_sent(&self, filter: impl Fn(&Entry) -> bool) -> u64 {
        lock(&self.state).entries.iter().filter(|entry| filter(entry)).map(|entry| entry.sent).sum()
    }

    /// Waits until the entries satisfy `done`; false if `timeout` passed first. The condition is asked again whenever
    /// anything changes. Needed also after a client has received the last byte: the server notes the end a moment
    /// later.
    pub fn wait(&self, timeout: Duration, done: impl Fn(&[Entry]) -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        let state = wait_until(&self.changed, lock(&self.state), deadline, |state| done(&state.entries));
        done(&state.entries)
    }

    /// Waits until no request is under way, so that all entries are final; false if `timeout` passed first.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        self.wait(timeout, |entries| entries.iter().all(|entry| entry.end != End::Running))
    }

    /// Forgets the requests that have ended.
    pub fn clear(&self) {
        lock(&self.state).entries.retain(|entry| entry.end == End::Running);
    }

    /// Counts a connection; gives its number.
    pub(crate) fn connected(&self) -> u64 {
        let mut state = lock(&self.state);
        state.connections += 1;
        self.changed.notify_all();
        state.connections
    }

    /// Enters a request; its number is filled in and given back.
    pub(crate) fn begin(&self, entry: Entry) -> u64 {
        let mut state = lock(&self.state);
        state.next += 1;
        let id = state.next;
        state.entries.push(Entry { id, ..entry });
        self.changed.notify_all();
        id
    }

    /// Changes the entry of a request under way.
    pub(crate) fn update(&self, id: u64, change: impl FnOnce(&mut Entry)) {
        let mut state = lock(&self.state);
        if let Some(index) = find(&state.entries, id) {
            change(&mut state.entries[index]);
            self.changed.notify_all();
        }
    }

    /// Notes how many body bytes of a reply have gone so far.
    pub(crate) fn progress(&self, id: u64, sent: u64) {
        let mut state = lock(&self.state);
        if let Some(index) = find(&state.entries, id) {
            state.entries[index].sent = sent;
            self.changed.notify_all();
        }
    }

    /// Ends an entry and writes its line.
    pub(crate) fn finish(&self, id: u64, end: End) {
        let mut state = lock(&self.state);
        let State { entries, file, .. } = &mut *state;
        let Some(index) = find(entries, id) else { return };
        let entry = &mut entries[index];
        entry.end = end;
        entry.ended = Some(Instant::now());
        if let Some(open) = file
            && let Err(error) = self.write(open, entry)
        {
            eprintln!("oss-server: cannot write the request log, no more lines are written: {error}");
            *file = None;
        }
        if !self.keep {
            entries.remove(index);
        }
        self.changed.notify_all();
    }

    fn write(&self, mut file: &File, entry: &Entry) -> io::Result<()> {
        let nanos = |time: Instant| {
            u64::try_from(time.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX)
        };
        let started = self.began_unix + entry.started.saturating_duration_since(self.began);
        let line = Line {
            id: entry.id,
            connection: entry.connection,
            source: entry.peer.to_string(),
            operation: entry.operation,
            method: &entry.method,
            bucket: &entry.bucket,
            key: &entry.key,
            query: &entry.query,
            range_header: entry.range_header.as_deref(),
            range: entry.range.as_ref().map(|range| [range.start, range.end]),
            authorization: entry.authorization,
            status: entry.status,
            code: entry.code.as_deref(),
            sent: entry.sent,
            time: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
            start_ns: nanos(entry.started),
            end_ns: entry.ended.map_or(0, nanos),
            end: entry.end,
        };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        file.write_all(&text)
    }
}

/// Entries are in order of their numbers, though some may have been cleared.
fn find(entries: &[Entry], id: u64) -> Option<usize> {
    entries.binary_search_by_key(&id, |entry| entry.id).ok()
}
