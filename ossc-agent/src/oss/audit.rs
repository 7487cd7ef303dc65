//! The audit log: a JSON line for each request that is sent, written by a thread of its own. Who ends a request
//! leaves its line in a queue of bounded length and goes on; a line that finds no room is counted, and the next one
//! that is written says how many are missing. Driven by `requests`, and for requests to peers by `peer`; docs/audit.md
//! describes the fields.

mod peer;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use serde::Serialize;

pub use self::peer::PeerRequest;
use crate::base::ByteRange;
use crate::sys::log_file::LogFile;
use crate::sys::privileges;

/// Lines that wait to be written, at most: some seconds of the fastest loads, and a few MiB.
const ROOM: usize = 8192;
/// Lines of one write, at most.
const WRITE: usize = 128;

/// One request and its outcome. Never holds a header or a query of a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Line {
    /// When it was begun: RFC 3339, UTC, milliseconds.
    pub(super) time: String,
    /// get, head, list, credentials, probe or peer.
    pub(super) operation: &'static str,
    /// The node that was asked, instead of OSS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peer: Option<String>,
    /// Key of the object, prefix of a listing, path or action of a request for credentials.
    pub(super) key: String,
    /// As in the `Range` header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) range: Option<String>,
    /// The NIC it was bound to, as configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nic: Option<String>,
    /// Address and port it was sent from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) local: Option<String>,
    /// HTTP status, once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    /// `x-oss-request-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_id: Option<String>,
    /// Bytes received of the reply's body.
    pub(super) bytes: u64,
    /// From when it was begun to the last byte or the error.
    pub(super) duration_ms: f64,
    /// Why it is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lane: Option<&'static str>,
    /// From 1.
    pub(super) attempt: u32,
    /// `Code` of OSS's error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl Line {
    /// Of a request that begins now.
    pub(super) fn begin(operation: &'static str, key: &str, range: Option<ByteRange>, attempt: u32) -> Self {
        Self {
            time: Timestamp::try_from(SystemTime::now())
                .map_or_else(|_| String::new(), |now| format!("{now:.3}")),
            operation,
            peer: None,
            key: key.to_owned(),
            range: range.map(|range| format!("bytes={}-{}", range.start(), range.end().saturating_sub(1))),
            nic: None,
            local: None,
            status: None,
            request_id: None,
            bytes: 0,
            duration_ms: 0.0,
            lane: None,
            attempt,
            code: None,
            error: None,
        }
    }

    /// The reply's head has come.
    pub(super) fn answered(&mut self, status: u16) {
        self.status = Some(status);
        self.error = (status >= 400).then(|| format!("status {status}"));
    }

    /// It is over after this time; None is before its end.
    pub(super) fn ended(&mut self, took: Option<Duration>, begun: Instant) {
        if took.is_none() {
            self.error = Some("given up before its end".to_owned());
        }
        let took = took.unwrap_or_else(|| begun.elapsed());
        self.duration_ms = f64::from(u32::try_from(took.as_micros()).unwrap_or(u32::MAX)) / 1000.0;
    }
}

/// A line as it is written.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    line: &'a Line,
    /// Lines before this one that found no room, or could not be written.
    #[serde(skip_serializing_if = "is_zero")]
    lost: u64,
}

/// The audit log of a run; clones share it.
#[derive(Debug, Clone)]
pub struct Audit(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    room: usize,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Line>,
    lost: u64,
    /// The writer has lines that are not in the file yet.
    is_writing: bool,
    is_closed: bool,
}

impl Audit {
    /// Starts the thread that writes to `file`.
    ///
    /// # Errors
    /// When the kernel refuses a thread.
    pub fn start(file: Arc<LogFile>) -> std::io::Result<Self> {
        let audit = Self::with_room(ROOM);
        let queue = Arc::clone(&audit.0);
        std::thread::Builder::new().name("ossc-audit".into()).spawn(move || {
            privileges::keep_only(privileges::NONE);
            while queue.write_once(&file) {}
        })?;
        Ok(audit)
    }

    fn with_room(room: usize) -> Self {
        Self(Arc::new(Queue { state: Mutex::default(), changed: Condvar::new(), room }))
    }

    /// Leaves a line to be written. Never waits for the disk.
    pub(super) fn note(&self, line: Line) {
        let mut state = self.0.lock();
        if state.lines.len() >= self.0.room {
            state.lost += 1;
            return;
        }
        state.lines.push_back(line);
        if !state.is_writing {
            self.0.changed.notify_all();
        }
    }

    /// Ends the thread when all lines are in the file, or after `limit`: a disk that hangs must not hold up the end.
    /// Called by the agent when nothing is sent any more.
    pub fn finish(&self, limit: Duration) {
        let mut state = self.0.lock();
        state.is_closed = true;
        self.0.changed.notify_all();
        let deadline = Instant::now() + limit;
        while state.is_writing || !state.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!(lines = state.lines.len(), "the audit log lacks its last lines");
                return;
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.lost > 0 {
            tracing::warn!(lines = state.lost, "lines of the audit log are lost");
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for lines and writes them. False when there will be no more.
    fn write_once(&self, file: &LogFile) -> bool {
        let mut state = self.lock();
        while state.lines.is_empty() {
            if state.is_closed {
                return false;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut lines = std::mem::take(&mut state.lines);
        let mut lost = std::mem::take(&mut state.lost);
        state.is_writing = true;
        drop(state);
        for lines in lines.make_contiguous().chunks(WRITE) {
            match file.append(&text_of(lines, lost)) {
                Ok(()) => lost = 0,
                Err(error) => {
                    if lost == 0 {
                        tracing::error!(path = %file.path().display(), %error, "lines of the audit log are lost");
                    }
                    lost += lines.len() as u64;
                }
            }
        }
        let mut state = self.lock();
        state.lost += lost;
        state.is_writing = false;
        self.changed.notify_all();
        true
    }
}

/// The lines as they are written; the first says how many before it are missing.
fn text_of(lines: &[Line], lost: u64) -> Vec<u8> {
    let mut text = Vec::new();
    for (nth, line) in lines.iter().enumerate() {
        let begin = text.len();
        let lost = if nth == 0 { lost } else { 0 };
        match serde_json::to_writer(&mut text, &Written { line, lost }) {
            Ok(()) => text.push(b'\n'),
            // No key of a line is anything but text, so this cannot be.
            Err(error) => {
                tracing::error!(%error, "an audit line cannot be written as JSON");
                text.truncate(begin);
            }
        }
    }
    text
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: &str) -> Line {
        Line::begin("get", key, None, 1)
    }

    #[test]
    fn what_finds_no_room_is_told_in_the_next_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = LogFile::open(&dir.path().join("audit")).unwrap();
        // No thread writes yet.
        let audit = Audit::with_room(2);
        (0..5).for_each(|nth| audit.note(line(&format!("before {nth}"))));
        assert!(audit.0.write_once(&file));
        audit.note(line("after\n"));
        assert!(audit.0.write_once(&file));
        audit.finish(Duration::ZERO);
        assert!(!audit.0.write_once(&file));
        let text = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let keys: Vec<_> = lines.iter().map(|line| line["key"].as_str().unwrap()).collect();
        assert_eq!(keys, ["before 0", "before 1", "after\n"]);
        let lost: Vec<_> = lines.iter().map(|line| line["lost"].as_u64()).collect();
        assert_eq!(lost, [Some(3), None, None]);
        assert!(lines[0].get("error").is_none());
    }

    #[test]
    fn the_end_waits_for_what_was_noted() {
        let dir = tempfile::tempdir().unwrap();
        let file = Arc::new(LogFile::open(&dir.path().join("audit")).unwrap());
        let audit = Audit::start(Arc::clone(&file)).unwrap();
        (0..1000).for_each(|nth| audit.note(line(&nth.to_string())));
        audit.finish(Duration::from_secs(60));
        assert_eq!(std::fs::read_to_string(file.path()).unwrap().lines().count(), 1000);
    }
}
