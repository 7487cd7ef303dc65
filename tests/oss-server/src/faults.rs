//! Misbehaviour on demand: rules that say which requests get which wrong reply.
//!
//! A [`Rule`] is a [`Fault`] and the requests it applies to. Tests add rules at run time and hold a [`RuleHandle`] to
//! count the hits, to wait for one, and to release what a stall holds. Every request asks all rules once, in the order
//! they were added; what they say is gathered in a [`Plan`], which the handler and the sender follow. Rules only
//! decide; they send nothing.

mod glob;
mod plan;
mod rule;
mod spec;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::sync::{lock, wait_until};

pub(crate) use plan::{Change, Plan};
pub use rule::Rule;
pub(crate) use rule::Subject;

/// A way to answer wrongly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This error instead of the reply, whatever the request and its signature.
    Error {
        /// HTTP status.
        status: u16,
        /// OSS error code.
        code: String,
    },
    /// Ignore the range: 200 and the whole object.
    FullBody,
    /// Close the connection after this many body bytes.
    Short {
        /// Body bytes before the end.
        after: u64,
    },
    /// Reset the connection after this many body bytes; some of them may get lost on the way.
    Reset {
        /// Body bytes before the reset.
        after: u64,
    },
    /// Hold the reply until the rule is released or removed, the time is over, or the client goes away.
    Stall {
        /// Body bytes before the stall; `None` holds the reply before its first byte.
        after: Option<u64>,
        /// Longest stall; `None` waits for the release.
        time: Option<Duration>,
    },
    /// Name another place in `Content-Range` than the one the bytes are from.
    WrongRange {
        /// Added to start and end.
        shift: i64,
    },
    /// Behave as if the object had just been replaced by one of the same size: another ETag, 412 to `If-Match`.
    Replaced,
    /// Invert the byte at this offset of the object.
    Flip {
        /// Offset in the object.
        offset: u64,
    },
    /// Send the body slowly.
    Drip {
        /// Bytes per second.
        rate: u64,
    },
    /// Judge and date the request with a clock that is off.
    Skew {
        /// How far the clock is ahead.
        seconds: i64,
    },
    /// This document with this status instead of the reply, whatever the request and its signature.
    Document {
        /// HTTP status.
        status: u16,
        /// The body.
        text: String,
    },
    /// Set a header of the reply, in place of the right one if it has it; `Content-Length` too.
    Header {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Write bytes that are no TLS record below TLS after this many body bytes, then close; without TLS, wrong
    /// bytes.
    Garble {
        /// Body bytes before them.
        after: u64,
    },
    /// Close the connection instead of replying.
    Close,
    /// Close the connection after the reply, without announcing it.
    CloseAfter,
    /// Send more bytes than asked for.
    Excess {
        /// Bytes too many.
        bytes: u64,
        /// Whether `Content-Length` counts them; if not, they follow the reply on the connection.
        declared: bool,
    },
    /// Delete an object before the request is answered; with [`Rule::nth`] on listings, between two pages.
    Delete {
        /// Its key.
        key: String,
    },
    /// Add or replace an object before the request is answered: computed content with the key's own seed.
    Put {
        /// Its key.
        key: String,
        /// Its size.
        size: u64,
    },
}

#[derive(Debug, Default)]
struct Count {
    matched: u64,
    hits: u64,
    held: u64,
    released: bool,
}

/// A rule in force.
pub(crate) struct Active {
    rule: Rule,
    count: Mutex<Count>,
    changed: Condvar,
}

impl fmt::Debug for Active {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rule.fmt(f)
    }
}

impl Active {
    /// How often a held reply looks whether its client is still there.
    const LOOK: Duration = Duration::from_millis(20);

    fn hit(&self, subject: &Subject<'_>) -> bool {
        if !self.rule.applies(subject) {
            return false;
        }
        let mut count = lock(&self.count);
        let chosen = self.rule.chosen(count.matched) && count.hits < self.rule.limit;
        count.matched += 1;
        count.hits += u64::from(chosen);
        self.changed.notify_all();
        chosen
    }

    fn release(&self) {
        lock(&self.count).released = true;
        self.changed.notify_all();
    }

    /// Holds the caller until the rule is released, `time` is over, or `gone` says that nobody waits any more.
    pub(crate) fn hold(&self, time: Option<Duration>, gone: impl Fn() -> bool) {
        let begin = Instant::now();
        let mut count = lock(&self.count);
        count.held += 1;
        self.changed.notify_all();
        while !count.released && !gone() {
            let left = time.map_or(Self::LOOK, |time| time.saturating_sub(begin.elapsed()).min(Self::LOOK));
            if left.is_zero() {
                break;
            }
            count = wait_until(&self.changed, count, Instant::now() + left, |count| count.released);
        }
    }
}

/// The rules in force on one server.
#[derive(Debug, Default)]
pub struct Faults {
    rules: Mutex<Vec<Arc<Active>>>,
}

impl Faults {
    /// Puts a rule in force until it is removed; dropping the handle changes nothing.
    pub fn add(&self, rule: Rule) -> RuleHandle<'_> {
        let active = Arc::new(Active { rule, count: Mutex::default(), changed: Condvar::new() });
        lock(&self.rules).push(Arc::clone(&active));
        RuleHandle { faults: self, active }
    }

    /// Removes all rules and releases what they hold.
    pub fn clear(&self) {
        for active in lock(&self.rules).drain(..) {
            active.release();
        }
    }

    /// What the rules say about a request.
    pub(crate) fn plan(&self, subject: &Subject<'_>) -> Plan {
        let mut plan = Plan::default();
        for active in lock(&self.rules).iter() {
            if active.hit(subject) {
                plan.follow(active, subject);
            }
        }
        plan
    }
}

/// A test's hold on a rule in force.
#[derive(Debug)]
pub struct RuleHandle<'a> {
    faults: &'a Faults,
    active: Arc<Active>,
}

impl RuleHandle<'_> {
    /// Requests the rule has been applied to.
    #[must_use]
    pub fn hits(&self) -> u64 {
        lock(&self.active.count).hits
    }

    /// Waits until the rule has been applied to `hits` requests; false if `timeout` passed first.
    pub fn wait(&self, hits: u64, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let count = lock(&self.active.count);
        wait_until(&self.active.changed, count, deadline, |count| count.hits >= hits).hits >= hits
    }

    /// Waits until replies to so many requests were held, which is after all else about these was decided; false if
    /// `timeout` passed first.
    pub fn wait_held(&self, replies: u64, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let count = lock(&self.active.count);
        wait_until(&self.active.changed, count, deadline, |count| count.held >= replies).held >= replies
    }

    /// Lets held replies go on; later stalls by this rule do not hold.
    pub fn release(&self) {
        self.active.release();
    }

    /// Takes the rule out of force and releases what it holds.
    pub fn remove(self) {
        lock(&self.faults.rules).retain(|active| !Arc::ptr_eq(active, &self.active));
        self.active.release();
    }
}

#[cfg(test)]
mod tests;
