//! Misbehaviour on demand: rules that say which requests get which wrong reply.
//!
//! A [`Rule`] is a [`Fault`] and the requests it applies to. Tests add rules at run time and hold a [`RuleHandle`] to
//! count the hits, to wait for one, and to release what a stall holds. Every request asks all rules once, in the order
//! they were added; what they say is gathered in a [`Plan`], which the handler and the sender follow. Rules only
//! decide; they send nothing.

mod glob;
mod plan;
mod spec;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::log::Operation;
use crate::sync::{lock, wait_until};
use crate::synthetic;

pub(crate) use plan::{Change, Plan};

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

/// A fault and the requests it applies to; without restriction, all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    fault: Fault,
    key: Option<String>,
    method: Option<String>,
    operation: Option<Operation>,
    range: Option<Range<u64>>,
    skip: u64,
    limit: u64,
    chance: Option<(f64, u64)>,
}

impl Rule {
    /// A rule for all requests.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            key: None,
            method: None,
            operation: None,
            range: None,
            skip: 0,
            limit: u64::MAX,
            chance: None,
        }
    }

    /// Only keys like this pattern, in which `*` stands for any text and `?` for one character. The key of a listing
    /// is its prefix, that of a metadata request its path.
    #[must_use]
    pub fn key(mut self, pattern: &str) -> Self {
        self.key = Some(pattern.to_owned());
        self
    }

    /// Only this HTTP method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_ascii_uppercase());
        self
    }

    /// Only this operation.
    #[must_use]
    pub fn operation(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only GET requests for at least one of these bytes.
    #[must_use]
    pub fn range(mut self, range: Range<u64>) -> Self {
        self.range = Some(range);
        self
    }

    /// Only the `n`-th of the requests that match otherwise, counted from 1.
    #[must_use]
    pub fn nth(self, n: u64) -> Self {
        self.skip(n.saturating_sub(1)).times(1)
    }

    /// Not the first `count` of the requests that match otherwise.
    #[must_use]
    pub fn skip(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// At most this many hits.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.limit = count;
        self
    }

    /// Only with this probability, 0 to 1; the same seed gives the same sequence of hits.
    #[must_use]
    pub fn probability(mut self, probability: f64, seed: u64) -> Self {
        self.chance = Some((probability, seed));
        self
    }

    fn applies(&self, subject: &Subject<'_>) -> bool {
        let overlaps = |wanted: &Range<u64>| {
            subject.range.as_ref().is_some_and(|asked| asked.start < wanted.end && wanted.start < asked.end)
        };
        self.key.as_deref().is_none_or(|pattern| glob::matches(pattern, subject.key))
            && self.method.as_deref().is_none_or(|method| method == subject.method)
            && self.operation.is_none_or(|operation| operation == subject.operation)
            && self.range.as_ref().is_none_or(overlaps)
    }

    /// Whether the `n`-th matching request (from 0) is hit, before the limit.
    fn chosen(&self, n: u64) -> bool {
        let lucky = self.chance.is_none_or(|(probability, seed)| {
            let draw = u32::try_from(synthetic::random(seed, n) >> 32).unwrap_or(u32::MAX);
            f64::from(draw) < probability * f64::from(u32::MAX)
        });
        n >= self.skip && lucky
    }
}

/// What a rule is asked about.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) operation: Operation,
    pub(crate) method: &'a str,
    pub(crate) key: &'a str,
    /// Bytes the request asks for, of requests that ask for bytes.
    pub(crate) range: Option<Range<u64>>,
}

#[derive(Debug, Default)]
struct Count {
    matched: u64,
    hits: u64,
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
                plan.follow(active);
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
