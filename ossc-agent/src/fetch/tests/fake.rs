//! A source whose replies a test decides one by one, over objects computed from their offsets. Requests are
//! recorded, and can be held until the test lets them go; nothing here knows time.

use std::sync::{Arc, Condvar, Mutex};
use std::time::SystemTime;

use crc_fast::{CrcAlgorithm, Digest};
use tokio::sync::watch;

use crate::base::{ByteRange, ETag, Object};
use crate::fetch::source::{Body, Fault, Remedy, Source};

/// The bytes of an object at `offset`.
pub(super) fn content(key: &str, offset: u64, buf: &mut [u8]) {
    let seed = key.bytes().fold(7u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    for (at, byte) in (offset..).zip(buf) {
        *byte = (at.wrapping_mul(seed | 1).wrapping_add(at >> 11) >> 3).to_le_bytes()[0];
    }
}

/// An object as a listing would show it.
pub(super) fn object(name: &str, size: u64) -> Object {
    Object {
        key: name.to_owned(),
        name: name.to_owned(),
        size,
        etag: ETag::new("v1"),
        modified: SystemTime::UNIX_EPOCH,
        crc64: None,
    }
}

/// CRC-64/XZ of an object's bytes.
fn crc64(object: &Object) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Xz);
    let mut buf = vec![0; usize::try_from(object.size).unwrap()];
    content(&object.key, 0, &mut buf);
    digest.update(&buf);
    digest.finalize()
}

/// A request as the script sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// Counted from 0 over all connections.
    pub(super) number: usize,
    pub(super) key: String,
    pub(super) range: ByteRange,
    /// Which connection, counted from 0 in the order they were made.
    pub(super) connection: usize,
}

/// What the script makes of a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    pub(super) fault: Option<Remedy>,
    /// The body breaks after so many bytes.
    pub(super) break_after: Option<u64>,
    /// The first byte is wrong.
    pub(super) corrupt: bool,
    /// Nothing comes until the test opens this.
    pub(super) hold: Option<watch::Receiver<bool>>,
}

type Script = Box<dyn Fn(&Request) -> Reply + Send + Sync>;

/// The origin all connections of a test share.
pub(super) struct Origin {
    script: Script,
    /// Most bytes of one `next`.
    slice: usize,
    seen: Mutex<Seen>,
    came: Condvar,
}

#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    connections: usize,
}

impl Origin {
    /// `slice` is odd in most tests, so that slices cross block boundaries.
    pub(super) fn new(slice: usize, script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { script: Box::new(script), slice, seen: Mutex::default(), came: Condvar::new() })
    }

    pub(super) fn connect(self: &Arc<Self>) -> FakeConnection {
        let mut seen = self.seen.lock().unwrap();
        let number = seen.connections;
        seen.connections += 1;
        FakeConnection { origin: Arc::clone(self), number }
    }

    /// All requests so far.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().requests.clone()
    }

    /// Waits until so many requests have come.
    pub(super) fn await_requests(&self, count: usize) -> Vec<Request> {
        let seen = self.seen.lock().unwrap();
        self.came.wait_while(seen, |seen| seen.requests.len() < count).unwrap().requests.clone()
    }
}

pub(super) struct FakeConnection {
    origin: Arc<Origin>,
    number: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("scripted fault")]
struct Scripted;

fn fault(remedy: Remedy) -> Fault {
    Fault { remedy, cause: Scripted.into() }
}

impl Source for FakeConnection {
    type Body<'a> = FakeBody;

    async fn get(&mut self, object: &Object, range: ByteRange) -> Result<FakeBody, Fault> {
        let request = {
            let mut seen = self.origin.seen.lock().unwrap();
            let request = Request {
                number: seen.requests.len(),
                key: object.key.clone(),
                range,
                connection: self.number,
            };
            seen.requests.push(request.clone());
            self.origin.came.notify_all();
            request
        };
        let reply = (self.origin.script)(&request);
        if let Some(mut hold) = reply.hold {
            hold.wait_for(|open| *open).await.unwrap();
        }
        if let Some(remedy) = reply.fault {
            return Err(fault(remedy));
        }
        Ok(FakeBody {
            crc64: crc64(object),
            key: request.key,
            at: range.start(),
            end: range.end(),
            break_at: reply.break_after.map(|bytes| range.start() + bytes),
            corrupt: reply.corrupt,
            buf: vec![0; self.origin.slice],
        })
    }
}

pub(super) struct FakeBody {
    key: String,
    crc64: u64,
    at: u64,
    end: u64,
    break_at: Option<u64>,
    corrupt: bool,
    buf: Vec<u8>,
}

impl Body for FakeBody {
    fn object_crc64(&self) -> Option<u64> {
        Some(self.crc64)
    }

    async fn fill(&mut self, _: usize) -> Result<(), Fault> {
        Ok(())
    }

    fn come(&self) -> usize {
        0
    }

    async fn next(&mut self, max: usize) -> Result<Option<&[u8]>, Fault> {
        // Lets other connections of the thread in, as a socket would.
        tokio::task::yield_now().await;
        if self.break_at.is_some_and(|at| self.at >= at) {
            return Err(fault(Remedy::TryAgain));
        }
        let end = self.break_at.unwrap_or(self.end).min(self.end);
        let len = usize::try_from(end - self.at).unwrap().min(max).min(self.buf.len());
        let bytes = &mut self.buf[..len];
        content(&self.key, self.at, bytes);
        if self.corrupt && len > 0 {
            bytes[0] ^= 1;
            self.corrupt = false;
        }
        self.at += len as u64;
        Ok((len > 0).then_some(bytes))
    }
}
