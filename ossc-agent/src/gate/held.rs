//! The readers that wait for an answer, and every answer that goes to the kernel: the one place that owns
//! their events. Each has a ticket, by which the outcome of its demand finds it again; descriptor numbers
//! are used again too soon for that. Each is on the record from before its demand until after its answer, so
//! that the next agent knows of it if this one is killed.
//!
//! Driven by the thread in `watch`. An answer the kernel does not take is logged; there is nobody else to
//! tell. What a reader may see is decided by the ready map at the moment of the answer, whoever promised.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;

use super::Shared;
use super::demand::{Demand, Guarded, Reply};
use super::snapshot::Waiting;
use crate::base::{ByteRange, millis};
use crate::keeper::Wanted;
use crate::store::Inode;
use crate::sys::fanotify::Event;

/// One waiting reader.
struct Reader {
    event: Event,
    file: Arc<dyn Guarded>,
    /// Other files that must have the same range as well, where it is not known which one it reads.
    others: Vec<Arc<dyn Guarded>>,
    /// The bytes it waits for.
    range: ByteRange,
    since: Instant,
    /// What it is told of by in the counts.
    number: u64,
    /// Whether it is the first of its file, which the log tells an operator.
    first: bool,
    /// Whether its bytes were promised once and then were not there.
    asked_again: bool,
}

/// All waiting readers.
pub(super) struct Held<D> {
    shared: Arc<Shared>,
    demand: Arc<D>,
    readers: HashMap<u64, Reader>,
    next_ticket: u64,
    /// Whether a reader whose demand failed stays held.
    sparing: bool,
}

impl<D: Demand> Held<D> {
    pub(super) fn new(shared: Arc<Shared>, demand: Arc<D>) -> Self {
        Self { shared, demand, readers: HashMap::new(), next_ticket: 0, sparing: false }
    }

    /// Fails nobody any more whose demand fails: the next agent will ask again.
    pub(super) fn spare(&mut self) {
        self.sparing = true;
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.readers.len()
    }

    /// Keeps a reader waiting and asks for its bytes. `first` says that no reader of this file had to wait
    /// before.
    pub(super) fn hold(&mut self, event: Event, file: Arc<dyn Guarded>, range: ByteRange, first: bool) {
        let (path, pid) = (file.path().display(), event.pid);
        if first {
            tracing::info!(%path, pid, %range, "reader held");
        } else {
            tracing::debug!(%path, pid, %range, "reader held");
        }
        let since = Instant::now();
        let number = self.shared.counters.held(Waiting { pid, file: file.id(), range, since });
        self.shared.record.hold(event.fd.as_raw_fd(), event.pid, Wanted::File(file.inode(), range));
        let others = Vec::new();
        self.ask(Reader { event, file, others, range, since, number, first, asked_again: false });
    }

    /// Keeps a reader of an earlier agent waiting until each of these files has the range: it reads one of them.
    pub(super) fn hold_for_any(&mut self, event: Event, mut files: Vec<Arc<dyn Guarded>>, range: ByteRange) {
        let Some(file) = files.pop() else { return self.answer_on_record(&event, Ok(())) };
        tracing::info!(pid = event.pid, %range, files = files.len() + 1, "reader of an unknown file held");
        let (pid, since) = (event.pid, Instant::now());
        let number = self.shared.counters.held(Waiting { pid, file: file.id(), range, since });
        self.ask(Reader {
            event,
            file,
            others: files,
            range,
            since,
            number,
            first: false,
            asked_again: false,
        });
    }

    fn ask(&mut self, reader: Reader) {
        let (file, range) = (reader.file.id(), reader.range);
        let ticket = self.next_ticket;
        self.next_ticket = ticket.wrapping_add(1);
        self.readers.insert(ticket, reader);
        self.demand.demand(file, range, Reply::new(ticket, self.shared.mailbox.clone()));
    }

    /// A demand has ended; nothing to do if its reader has an answer already. Bytes may have been found
    /// wrong and forgotten since they were promised: they are asked for once more.
    pub(super) fn finish(&mut self, ticket: u64, outcome: Result<(), Errno>) {
        if self.sparing && outcome.is_err() {
            return;
        }
        let Some(mut reader) = self.readers.remove(&ticket) else { return };
        if outcome.is_err() || reader.file.covers(reader.range) {
            self.advance(reader, outcome);
        } else if reader.asked_again {
            let path = reader.file.path().display();
            tracing::error!(%path, range = %reader.range, "bytes said to be there are not");
            self.let_go(reader, Err(Errno::EIO));
        } else {
            reader.asked_again = true;
            self.ask(reader);
        }
    }

    /// What a reader waited for has this outcome; it goes on waiting if that was one file of several.
    fn advance(&mut self, mut reader: Reader, outcome: Result<(), Errno>) {
        match reader.others.pop() {
            Some(next) if outcome.is_ok() => {
                reader.file = next;
                reader.asked_again = false;
                self.ask(reader);
            }
            _ => self.let_go(reader, outcome),
        }
    }

    /// The file is complete: its readers pass.
    pub(super) fn complete(&mut self, inode: Inode) {
        let readers: Vec<_> = self.readers.extract_if(|_, reader| reader.file.inode() == inode).collect();
        for (_, reader) in readers {
            let outcome = if reader.file.covers(reader.range) { Ok(()) } else { Err(Errno::EIO) };
            self.advance(reader, outcome);
        }
    }

    /// Answers all readers: those whose bytes are there pass, the others fail with EIO.
    pub(super) fn settle(&mut self) {
        for (_, reader) in std::mem::take(&mut self.readers) {
            let covered = reader.others.iter().chain([&reader.file]).all(|file| file.covers(reader.range));
            self.let_go(reader, if covered { Ok(()) } else { Err(Errno::EIO) });
        }
    }

    /// Fails all readers of one file, and those that may be.
    pub(super) fn fail(&mut self, inode: Inode, errno: Errno) {
        let is_it = |file: &Arc<dyn Guarded>| file.inode() == inode;
        let chosen = |reader: &mut Reader| is_it(&reader.file) || reader.others.iter().any(is_it);
        let readers: Vec<_> = self.readers.extract_if(|_, reader| chosen(reader)).collect();
        for (_, reader) in readers {
            self.let_go(reader, Err(errno));
        }
    }

    fn let_go(&self, reader: Reader, outcome: Result<(), Errno>) {
        let Reader { event, file, range, since, number, first, .. } = reader;
        let wait = since.elapsed();
        self.shared.counters.released(number, wait);
        self.answer_on_record(&event, outcome);
        let (path, pid, wait_ms) = (file.path().display(), event.pid, millis(wait));
        match outcome {
            Ok(()) if first => tracing::info!(%path, pid, %range, wait_ms, "reader released"),
            Ok(()) => tracing::debug!(%path, pid, %range, wait_ms, "reader released"),
            Err(errno) if first => tracing::warn!(%path, pid, %range, wait_ms, %errno, "reader denied"),
            Err(errno) => tracing::debug!(%path, pid, %range, wait_ms, %errno, "reader denied"),
        }
    }

    /// Answers an event that is on record. Off the record before its descriptor is closed, because the number
    /// may be the next event's then.
    pub(super) fn answer_on_record(&self, event: &Event, outcome: Result<(), Errno>) {
        self.answer(event, outcome);
        self.shared.record.clear(event.fd.as_raw_fd());
    }

    /// Fails a reader of an earlier agent by its number alone.
    pub(super) fn answer_number(&self, number: RawFd) {
        self.shared.counters.denied();
        if let Err(error) = self.shared.group.deny_number(number, Errno::EIO) {
            tracing::debug!(%error, number, "a reader of an earlier agent had its answer already");
        }
        self.shared.record.clear(number);
    }

    /// Answers an event that need not wait.
    pub(super) fn answer(&self, event: &Event, outcome: Result<(), Errno>) {
        let sent = match outcome {
            Ok(()) => self.shared.group.allow(event),
            Err(errno) => {
                self.shared.counters.denied();
                self.shared.group.deny(event, errno)
            }
        };
        match sent {
            Ok(()) => {}
            // A killed reader's event takes its answer all the same (`finish_permission_event`), so this
            // one was answered by another holder of the group.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::debug!(pid = event.pid, "a reader had its answer already");
            }
            Err(error) => tracing::error!(%error, pid = event.pid, "cannot answer a reader"),
        }
    }
}
