//! What all rules together say about one reply.

use std::sync::Arc;
use std::time::Duration;

use super::{Active, Fault, Subject};
use crate::error::OssError;
use crate::get::Distortion;

/// A point at which the reply is held.
#[derive(Debug)]
pub(crate) struct Stall {
    /// Body bytes before it; `None` is before the head.
    pub(crate) after: Option<u64>,
    /// Longest stall.
    pub(crate) time: Option<Duration>,
    /// The rule that can release it.
    pub(crate) rule: Arc<Active>,
}

/// A change of the bucket before the request is answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Delete this key.
    Delete(String),
    /// Put computed content of this size.
    Put(String, u64),
}

/// How one reply is to be sent.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The error that takes the place of the reply.
    pub(crate) error: Option<OssError>,
    /// Changes of the reply's content.
    pub(crate) distortion: Distortion,
    /// Body bytes after which the connection is closed.
    pub(crate) cut: Option<u64>,
    /// Body bytes after which the connection is reset.
    pub(crate) reset: Option<u64>,
    /// Body bytes after which the connection speaks no TLS any more.
    pub(crate) garble: Option<u64>,
    /// The document that takes the place of the reply, with its status.
    pub(crate) document: Option<(u16, String)>,
    /// Headers that take the place of the right ones.
    pub(crate) headers: Vec<(String, String)>,
    /// Where the reply is held.
    pub(crate) stalls: Vec<Stall>,
    /// Offsets in the object of bytes to invert.
    pub(crate) flips: Vec<u64>,
    /// Bytes per second of the body; 0 is no limit.
    pub(crate) rate: u64,
    /// Seconds by which the clock is ahead.
    pub(crate) skew: i64,
    /// No reply at all.
    pub(crate) close: bool,
    /// No second request on this connection.
    pub(crate) close_after: bool,
    /// Bytes to send after the body.
    pub(crate) excess: u64,
    /// How many of them `Content-Length` counts.
    pub(crate) declared_excess: u64,
    /// Changes of the bucket.
    pub(crate) changes: Vec<Change>,
}

impl Plan {
    /// Adds what a rule demands.
    pub(super) fn follow(&mut self, active: &Arc<Active>, subject: &Subject<'_>) {
        let begin = subject.range.as_ref().map_or(0, |range| range.start);
        let begin = if active.rule.in_object { begin } else { 0 };
        let from_begin = |after: u64| after.saturating_sub(begin);
        let least = |known: Option<u64>, after: u64| {
            Some(known.map_or(from_begin(after), |known| known.min(from_begin(after))))
        };
        match &active.rule.fault {
            Fault::Error { status, code } => self.error = Some(OssError::with_status(*status, code.clone())),
            Fault::FullBody => self.distortion.ignore_range = true,
            Fault::Short { after } => self.cut = least(self.cut, *after),
            Fault::Reset { after } => self.reset = least(self.reset, *after),
            Fault::Garble { after } => self.garble = least(self.garble, *after),
            Fault::Document { status, text } => self.document = Some((*status, text.clone())),
            Fault::Header { name, value } => self.headers.push((name.clone(), value.clone())),
            Fault::Stall { after, time } => {
                self.stalls.push(Stall {
                    after: after.map(from_begin),
                    time: *time,
                    rule: Arc::clone(active),
                });
                self.stalls.sort_by_key(|stall| stall.after);
            }
            Fault::WrongRange { shift } => self.distortion.shift_range = *shift,
            Fault::Replaced => self.distortion.replaced = true,
            Fault::Flip { offset } => self.flips.push(*offset),
            Fault::Drip { rate } => self.rate = *rate,
            Fault::Skew { seconds } => self.skew = *seconds,
            Fault::Close => self.close = true,
            Fault::CloseAfter => self.close_after = true,
            Fault::Excess { bytes, declared } => {
                self.excess = *bytes;
                self.declared_excess = if *declared { *bytes } else { 0 };
            }
            Fault::Delete { key } => self.changes.push(Change::Delete(key.clone())),
            Fault::Put { key, size } => self.changes.push(Change::Put(key.clone(), *size)),
        }
    }
}
