//! Which requests a fault applies to.

use std::ops::Range;

use super::{Fault, glob};
use crate::log::Operation;
use crate::synthetic;

/// A fault and the requests it applies to; without restriction, all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub(super) fault: Fault,
    key: Option<String>,
    method: Option<String>,
    operation: Option<Operation>,
    range: Option<Range<u64>>,
    /// Places in a body are told as offsets of the object.
    pub(super) in_object: bool,
    skip: u64,
    pub(super) limit: u64,
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
            in_object: false,
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

    /// Only GET requests for the byte at this offset of the object; and what the fault says to happen after so
    /// many body bytes happens when this byte is next, so the fault's own number should be `offset`.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.in_object = true;
        self.range(offset..offset.saturating_add(1))
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

    /// Whether the request is one of those the rule is about.
    pub(super) fn applies(&self, subject: &Subject<'_>) -> bool {
        let overlaps = |wanted: &Range<u64>| {
            subject.range.as_ref().is_some_and(|asked| asked.start < wanted.end && wanted.start < asked.end)
        };
        self.key.as_deref().is_none_or(|pattern| glob::matches(pattern, subject.key))
            && self.method.as_deref().is_none_or(|method| method == subject.method)
            && self.operation.is_none_or(|operation| operation == subject.operation)
            && self.range.as_ref().is_none_or(overlaps)
    }

    /// Whether the `n`-th matching request (from 0) is hit, before the limit.
    pub(super) fn chosen(&self, n: u64) -> bool {
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
