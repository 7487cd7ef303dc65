//! Holding readers: a call that would see bytes which are not in the file yet waits until they are, or fails
//! with an errno. Never does a reader see a hole.
//!
//! The agent picks a `Mode` with `probe`, starts the `Gate`, and calls `protect` for each file while it is
//! still hidden, `release` when it is complete, `fail` when it never will be. The gate itself fetches
//! nothing: it asks its `Demand` (the fetcher), and passes each access on to an observer (the learned order).
//!
//! To stop: hide the files that are not complete, then `stop`, then exit. `stop` fails the readers held and
//! every later one whose bytes are missing, but leaves the marks, because a descriptor already open on an
//! incomplete file would read zeros without them. The same happens when the process ends and the kernel
//! closes the last descriptor of the group: this part alone cannot prevent that, only another process that
//! holds the group too.

mod capacity;
mod decision;
mod demand;
mod error;
mod held;
mod mailbox;
mod mode;
mod snapshot;
mod watch;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use nix::errno::Errno;

pub use self::capacity::Capacity;
pub use self::demand::{Demand, Guarded, Reply};
pub use self::error::Error;
use self::mailbox::{Mailbox, Message};
pub use self::mode::{Mode, Ranges, probe};
use self::snapshot::Counters;
pub use self::snapshot::Snapshot;
use self::watch::Watcher;
use crate::base::{Access, ByteRange};
use crate::sys::fanotify::Group;

/// The gate of one load. Dropping it denies whoever is held, ends the thread and closes the group: what
/// reads an incomplete file after that sees holes, so it lives as long as the process.
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
    mailbox: Mailbox,
    counters: Counters,
}

impl Gate {
    /// Starts the thread. `demand` and `observer` are called on it and must not block; the observer sees
    /// each access of another process once, held or not.
    pub fn start(
        mode: Mode,
        capacity: Capacity,
        demand: impl Demand + 'static,
        observer: impl Fn(Access) + Send + 'static,
    ) -> Result<Self, Error> {
        let group = mode::new_group()?;
        let (mailbox, messages) = Mailbox::new().map_err(Error::Start)?;
        let shared = Arc::new(Shared { group, mailbox, counters: Counters::default() });
        let watcher = Watcher::new(Arc::clone(&shared), mode, capacity, demand, observer, messages);
        let thread = thread::Builder::new()
            .name("ossc-gate".to_owned())
            .spawn(move || watcher.run())
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
        // Known to the thread before the kernel can send the first event.
        self.shared.mailbox.leave(Message::Watch(Arc::clone(&file)));
        self.shared
            .group
            .mark(self.mode.mark(), file.fd())
            .map_err(|source| Error::Mark { path: file.path().to_owned(), source })
    }

    /// The file is complete: takes the gate off it, for good, and lets go whoever waits for it.
    pub fn release(&self, file: &dyn Guarded) {
        let path = file.path().display();
        if !file.covers(ByteRange::new(0, file.layout().size())) {
            tracing::error!(%path, "the gate stays on a file that has holes");
            return;
        }
        if let Err(error) = self.shared.group.unmark(self.mode.mark(), file.fd()) {
            tracing::warn!(%path, %error, "the gate stays on a complete file; reading it costs more");
        }
        self.shared.mailbox.post(Message::Release(file.inode()));
    }

    /// The file can never be right: whoever waits for it or accesses it later gets `errno`, whatever part it
    /// wants.
    pub fn fail(&self, file: &dyn Guarded, errno: Errno) {
        self.shared.mailbox.post(Message::Fail(file.inode(), errno));
    }

    /// Ends the waiting: readers held whose bytes are missing get EIO, and so does any that comes later.
    /// Returns when all have their answer.
    pub fn stop(&self) {
        let (answered, wait) = mpsc::channel();
        self.shared.mailbox.post(Message::Stop(answered));
        // Nothing is ever sent: the thread drops its end when it is done, or has ended before.
        wait.recv().ok();
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
