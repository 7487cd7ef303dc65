//! The gate's two neighbours, as narrow as it needs them: the file it guards and whoever brings bytes.
//! `store::File` and `fetch::Fetcher` are the real ones; tests bring their own.

use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::errno::Errno;

use super::mailbox::{Mailbox, Message};
use crate::base::{ByteRange, FileId, Layout};
use crate::fetch::Fetcher;
use crate::store::{self, Inode};

/// A file whose readers are held.
pub trait Guarded: Send + Sync {
    /// Index, for demands and observations.
    fn id(&self) -> FileId;
    /// A descriptor opened before the file is protected.
    fn fd(&self) -> BorrowedFd<'_>;
    /// What events of this file are known by.
    fn inode(&self) -> Inode;
    /// Size and blocks.
    fn layout(&self) -> Layout;
    /// For messages.
    fn path(&self) -> &Path;
    /// Whether every byte of the range is in the file, visible to any reader.
    fn covers(&self, range: ByteRange) -> bool;
}

impl Guarded for store::File {
    fn id(&self) -> FileId {
        self.id()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }

    fn inode(&self) -> Inode {
        self.inode()
    }

    fn layout(&self) -> Layout {
        self.layout()
    }

    fn path(&self) -> &Path {
        self.path()
    }

    fn covers(&self, range: ByteRange) -> bool {
        self.ready().covers(range)
    }
}

/// Brings bytes that a reader waits for.
pub trait Demand: Send + Sync {
    /// Sees to it that `range` gets into the file before anything else, then answers `reply`, at once or
    /// from another thread. Called on the gate's thread: must not block.
    fn demand(&self, file: FileId, range: ByteRange, reply: Reply);
}

impl Demand for Fetcher {
    fn demand(&self, file: FileId, range: ByteRange, reply: Reply) {
        let done = move |outcome: Result<(), crate::fetch::Failure>| {
            reply.answer(outcome.map_err(|failure| failure.errno()));
        };
        self.demand(file, range, Box::new(done));
    }
}

/// Takes the outcome of one demand back to the gate. Dropped without an answer it fails the reader with EIO,
/// so that a lost demand is an error there and not a wait for ever.
#[derive(Debug)]
pub struct Reply {
    ticket: u64,
    mailbox: Mailbox,
    outcome: Result<(), Errno>,
}

impl Reply {
    pub(super) fn new(ticket: u64, mailbox: Mailbox) -> Self {
        Self { ticket, mailbox, outcome: Err(Errno::EIO) }
    }

    /// The range is there, or is lost for good and its readers get this errno. Never blocks.
    pub fn answer(mut self, outcome: Result<(), Errno>) {
        self.outcome = outcome;
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.mailbox.post(Message::Done { ticket: self.ticket, outcome: self.outcome });
    }
}
