//! Holding readers: a call that would see bytes which are not in the file yet waits until they are, or fails
//! with an errno. Never does a reader see a hole.
//!
//! The agent picks a `Mode` with `probe`, starts the `Gate`, calls `protect` for each file while it is still
//! hidden, then `begin`; `release` when a file is complete, `fail` when it never will be. The gate itself
//! fetches nothing: it asks its `Demand` (the fetcher), and passes each access on to an observer (the
//! learned order).
//!
//! Group and record are the agent's, which gives duplicates to its keeper: when this process is killed the
//! readers stay held, and the gate of the next agent goes on with the same group and with the readers that
//! the record tells of.
//!
//! To hand over: `spare`, end the fetcher, `leave`, then let the keeper know; nobody fails, and files keep their
//! names.
//!
//! To stop: hide the files that are not complete, then `stop`, then let the keeper know. `stop` fails the
//! readers held and every later one whose bytes are missing, but leaves the marks, because a descriptor
//! already open on an incomplete file would read zeros without them.

mod capacity;
mod decision;
mod demand;
mod error;
mod held;
mod mailbox;
mod mode;
mod pace;
mod snapshot;
mod stops;
mod watch;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;

pub use self::capacity::Capacity;
pub use self::demand::{Demand, Guarded, Reply};
pub use self::error::Error;
use self::mailbox::{Mailbox, Message};
pub use self::mode::{Found, Mode, Ranges, new_group, probe, probe_again};
use self::snapshot::Counters;
pub use self::snapshot::{Numbers, Snapshot, Waiting};
use self::watch::Watcher;
use crate::base::{Access, ByteRange};
use crate::bpf::stop::Stopper;
use crate::keeper::{Pending, Record};
use crate::store::Inode;
use crate::sys::fanotify::Group;
use crate::sys::privileges;

/// The gate of one load. Dropping it denies whoever is held, ends the thread and closes this descriptor of
/// the group: readers of an incomplete file then wait until whoever holds another one answers them.
#[derive(Debug)]
pub struct Gate {
    mode: Mode,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the handle and the thread both reach.
#[derive(Debug)]
struct Shared {
    group: Group,
    record: Record,
    mailbox: Mailbox,
    counters: Arc<Counters>,
    /// The programs that stop processes. Locked for moments only.
    stopper: Option<Mutex<Stopper>>,
}

impl Gate {
    /// Starts the thread, which waits for `begin`. `demand` and `observer` are called on it and must not block;
    /// the observer sees each access of another process once, held or not. Group and record are new ones, or
    /// those that an earlier agent used together.
    pub fn start(
        Found { mode, stopper }: Found,
        capacity: Capacity,
        (group, record): (Group, Record),
        demand: impl Demand + 'static,
        observer: impl Fn(Access) + Send + 'static,
    ) -> Result<Self, Error> {
        let (mailbox, messages) = Mailbox::new().map_err(Error::Start)?;
        let stops = stopper.is_some();
        let stopper = stopper.map(Mutex::new);
        let shared = Arc::new(Shared { group, record, mailbox, counters: Arc::default(), stopper });
        let watcher = Watcher::new(Arc::clone(&shared), mode, capacity, demand, observer, messages);
        let thread = thread::Builder::new()
            .name("ossc-gate".to_owned())
            .spawn(move || {
                privileges::keep_only(if stops { privileges::STOPS } else { privileges::NONE });
                watcher.run();
            })
            .map_err(Error::Start)?;
        Ok(Self { mode, shared, thread: Some(thread) })
    }

    /// How readers are held.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Holds readers of the file from now on. To be called before the file has a name that readers know:
    /// descriptors opened earlier are not held.
    pub fn protect(&self, file: Arc<dyn Guarded>) -> Result<(), Error> {
        let failed = |source| Error::Programs { path: file.path().to_owned(), source: Box::new(source) };
        let inode = match &self.shared.stopper {
            Some(stopper) => {
                let mut stopper = stopper.lock().unwrap_or_else(PoisonError::into_inner);
                Some(stopper.gate(file.fd()).map_err(failed)?)
            }
            None => None,
        };
        // Known to the thread before the kernel can send the first event.
        self.shared.mailbox.leave(Message::Watch(Arc::clone(&file), inode));
        self.shared
            .group
            .mark(self.mode.mark(), file.fd())
            .map_err(|source| Error::Mark { path: file.path().to_owned(), source })
    }

    /// Takes over the readers that an earlier agent left without an answer, and begins to listen to the
    /// kernel. To be called once, when every file that has a mark was protected, released or refused.
    pub fn begin(&self, pending: Vec<Pending>) {
        self.shared.mailbox.post(Message::Begin(pending));
    }

    /// Fails every reader of a file that an earlier agent had marked and this one does not fill.
    pub fn refuse(&self, inode: Inode) {
        self.shared.mailbox.post(Message::Fail(inode, Errno::EIO));
    }

    /// The file is complete: takes the gate off it, for good, and lets go whoever waits for it.
    pub fn release(&self, file: &dyn Guarded) {
        let path = file.path().display();
        if !file.covers(ByteRange::new(0, file.layout().size())) {
            tracing::error!(%path, "the gate stays on a file that has holes");
            return;
        }
        // An earlier agent may have taken it off before it died.
        if let Err(error) = self.shared.group.unmark(self.mode.mark(), file.fd())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%path, %error, "the gate stays on a complete file; reading it costs more");
        }
        if let Some(stopper) = &self.shared.stopper {
            match Stopper::inode_of(file.fd()) {
                Ok(inode) => stopper.lock().unwrap_or_else(PoisonError::into_inner).ungate(inode),
                Err(error) => {
                    tracing::warn!(%path, %error, "who maps a complete file is stopped for a moment")
                }
            }
        }
        self.shared.mailbox.post(Message::Release(file.inode()));
    }

    /// The file can never be right: whoever waits for it or accesses it later gets `errno`, whatever part it
    /// wants.
    pub fn fail(&self, file: &dyn Guarded, errno: Errno) {
        self.shared.mailbox.post(Message::Fail(file.inode(), errno));
    }

    /// Whether nobody is stopped and nobody has to be any more.
    #[must_use]
    pub fn has_done_stopping(&self) -> bool {
        let stopper = self.shared.stopper.as_ref();
        stopper.is_some_and(|stopper| !stopper.lock().unwrap_or_else(PoisonError::into_inner).is_attached())
    }

    /// Ends the waiting: readers held whose bytes are missing get EIO, and so does any that comes later.
    /// Returns when all have their answer.
    pub fn stop(&self) {
        let (answered, wait) = mpsc::channel();
        self.shared.mailbox.post(Message::Stop(answered));
        // Nothing is ever sent: the thread drops its end when it is done, or has ended before.
        wait.recv().ok();
    }

    /// From now on no demand that fails fails its reader, who stays held: before a fetcher ends that another agent's
    /// will follow.
    pub fn spare(&self) {
        self.shared.mailbox.post(Message::Spare);
    }

    /// Ends the thread and answers nobody: whoever is held stays so, on the record, for the next agent. Returns when
    /// no answer can be given any more, so that what ends afterwards cannot fail a reader.
    pub fn leave(&self) {
        let (left, wait) = mpsc::channel();
        self.shared.mailbox.post(Message::Leave(left));
        // As in `stop`.
        wait.recv().ok();
    }

    /// Its counts, and who waits.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        Numbers(Arc::clone(&self.shared.counters))
    }

    /// Counts so far.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.counters.snapshot()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.stop();
        self.shared.mailbox.post(Message::Quit);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the gate's thread panicked");
        }
    }
}
