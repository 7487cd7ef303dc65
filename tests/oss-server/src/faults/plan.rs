//! What all rules together say about one reply.

use std::sync::Arc;
use std::time::Duration;

use super::{Active, Fault};
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
    pub(super) fn follow(&mut self, active: &Arc<Active>) {
        match &active.rule.fault {
            Fault::Error { status, code } => self.error = Some(OssError::with_status(*status, code.clone())),
            Fault::FullBody => self.distortion.ignore_range = true,
            Fault::Short { after } => self.cut = Some(self.cut.map_or(*after, |cut| cut.min(*after))),
            Fault::Reset { after } => self.reset = Some(self.reset.map_or(*after, |reset| reset.min(*after))),
            Fault::Stall { after, time } => {
                self.stalls.push(Stall { after: *after, time: *time, rule: Arc::clone(active) });
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
