//! The readers that wait for an answer: the one place that owns their events. Each has a ticket, by which
//! the outcome of its demand finds it again; descriptor numbers are used again too soon for that.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::demand::Guarded;
use crate::base::ByteRange;
use crate::sys::fanotify::Event;

/// One waiting reader.
pub(super) struct Reader {
    /// To answer with.
    pub(super) event: Event,
    /// What it reads.
    pub(super) file: Arc<dyn Guarded>,
    /// The bytes it waits for.
    pub(super) range: ByteRange,
    /// Since when.
    pub(super) since: Instant,
    /// Whether it is the first of its file, which the log tells an operator.
    pub(super) first: bool,
    /// Whether its bytes were promised once and then were not there.
    pub(super) asked_again: bool,
}

/// All waiting readers.
#[derive(Default)]
pub(super) struct Held {
    readers: HashMap<u64, Reader>,
    next: u64,
}

impl Held {
    /// Keeps a reader; returns its ticket.
    pub(super) fn keep(&mut self, reader: Reader) -> u64 {
        let ticket = self.next;
        self.next = self.next.wrapping_add(1);
        self.readers.insert(ticket, reader);
        ticket
    }

    /// Takes a reader out to answer it; none when that has happened already.
    pub(super) fn take(&mut self, ticket: u64) -> Option<Reader> {
        self.readers.remove(&ticket)
    }

    /// Takes out every reader that `which` chooses.
    pub(super) fn take_where(&mut self, mut which: impl FnMut(&Reader) -> bool) -> Vec<Reader> {
        self.readers.extract_if(|_, reader| which(reader)).map(|(_, reader)| reader).collect()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.readers.len()
    }
}
