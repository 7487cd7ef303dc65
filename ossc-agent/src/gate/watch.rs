//! The gate's thread: takes events from the kernel, judges them, keeps the readers that must wait and
//! carries every answer back. It owns all of that state; the rest of the agent reaches it by mail.
//!
//! The path of a reader whose bytes are there is short and allocates nothing: a share of one read(2), an
//! fstat(2), a look at the ready map, the answer, a close(2).
//!
//! Fail closed. An event of an inode that was never protected is denied with EIO: every mark is ours, so it
//! can only be a file we fail to recognise, and letting it pass could show holes. One of a file released is
//! let through, for those events were under way when the mark went. If the kernel cannot be understood any
//! more the thread stops listening, says so, and still answers those it holds; the others wait.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;

use super::capacity::Capacity;
use super::decision::{Verdict, judge, wanted};
use super::demand::{Demand, Guarded, Reply};
use super::held::{Held, Reader};
use super::mailbox::{Mailbox, Message};
use super::mode::Mode;
use super::snapshot::Counters;
use crate::base::{Access, AccessKind, ByteRange};
use crate::store::Inode;
use crate::sys::fanotify::{BATCH, Buffer, Event, Group, Malformed};
use crate::sys::process::monotonic_ns;

/// What is known of an inode.
enum Watched {
    /// Readers wait for bytes that are missing.
    Guarded {
        file: Arc<dyn Guarded>,
        /// Whether the log has told of a held reader.
        told: bool,
    },
    /// Readers get this errno.
    Failed(Errno),
    /// The file is complete.
    Released,
}

/// All state of the thread.
pub(super) struct Watcher<D, O> {
    pub(super) group: Arc<Group>,
    pub(super) mode: Mode,
    pub(super) capacity: Capacity,
    pub(super) demand: D,
    pub(super) observer: O,
    pub(super) mailbox: Mailbox,
    pub(super) messages: Receiver<Message>,
    pub(super) counters: Arc<Counters>,
    pub(super) state: State,
}

/// The part of it that changes.
pub(super) struct State {
    files: HashMap<Inode, Watched>,
    held: Held,
    /// The agent fetches no more.
    stopping: bool,
    /// The thread ends once the kernel's queue is empty.
    quitting: bool,
    /// The thread listens to the kernel no more.
    deaf: bool,
    /// Our own thread group, whose events pass: a wait of ours for ourselves would never end.
    own_pid: u32,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            files: HashMap::new(),
            held: Held::default(),
            stopping: false,
            quitting: false,
            deaf: false,
            own_pid: std::process::id(),
        }
    }
}

impl<D: Demand, O: Fn(Access)> Watcher<D, O> {
    /// Runs until `Message::Quit`.
    pub(super) fn run(mut self) {
        let mut buffer = Buffer::new();
        loop {
            self.take_mail();
            if self.take_events(&mut buffer) {
                continue;
            }
            if self.state.quitting {
                return;
            }
            if let Err(error) = self.wait() {
                tracing::error!(%error, "cannot wait for events of the kernel");
                return self.go_deaf();
            }
        }
    }

    /// Sleeps until there is mail, or an event that may be taken.
    fn wait(&self) -> Result<(), Errno> {
        let mut fds = [
            PollFd::new(self.mailbox.wake_fd(), PollFlags::POLLIN),
            PollFd::new(self.group.as_fd(), PollFlags::POLLIN),
        ];
        let listening = !self.state.deaf && self.room() > 0;
        let fds = if listening { &mut fds[..] } else { &mut fds[..1] };
        match poll(fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM) => {}
            Err(errno) => return Err(errno),
        }
        if fds[0].any().unwrap_or(false) {
            self.mailbox.quiet();
        }
        Ok(())
    }

    fn room(&self) -> usize {
        self.capacity.left(self.state.held.len())
    }

    fn take_mail(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            match message {
                Message::Watch(file) => {
                    self.state.files.insert(file.inode(), Watched::Guarded { file, told: false });
                }
                Message::Release(inode) => {
                    self.state.files.insert(inode, Watched::Released);
                    self.settle(Some(inode), Errno::EIO);
                }
                Message::Fail(inode, errno) => {
                    self.state.files.insert(inode, Watched::Failed(errno));
                    for reader in self.state.held.take_where(|reader| reader.file.inode() == inode) {
                        self.let_go(reader, Err(errno));
                    }
                }
                Message::Done { ticket, outcome } => self.finish(ticket, outcome),
                Message::Stop(answered) => {
                    self.state.stopping = true;
                    self.settle(None, Errno::EIO);
                    drop(answered);
                }
                Message::Quit => self.state.quitting = true,
            }
        }
    }

    /// Answers the readers of one file or of all: those whose bytes are there pass, the others fail.
    fn settle(&mut self, inode: Option<Inode>, errno: Errno) {
        let chosen = |reader: &Reader| inode.is_none_or(|inode| reader.file.inode() == inode);
        for reader in self.state.held.take_where(chosen) {
            let outcome = if reader.file.covers(reader.range) { Ok(()) } else { Err(errno) };
            self.let_go(reader, outcome);
        }
    }

    /// Takes one batch from the kernel. Returns whether there may be more.
    fn take_events(&mut self, buffer: &mut Buffer) -> bool {
        let room = self.room().min(BATCH);
        if self.state.deaf || room == 0 {
            return false;
        }
        // The borrow of the group must not hold up `self`.
        let group = Arc::clone(&self.group);
        let batch = match group.read(self.mode.mark(), room, buffer) {
            Ok(batch) => batch,
            Err(error) => return self.after_failed_read(&error),
        };
        for event in batch {
            match event {
                Ok(event) => self.admit(event),
                Err(malformed) => {
                    tracing::error!(%malformed, "an event of the kernel cannot be understood");
                    if matches!(malformed, Malformed::Version(_)) {
                        self.go_deaf();
                    }
                }
            }
        }
        true
    }

    fn after_failed_read(&mut self, error: &io::Error) -> bool {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAGAIN) => false,
            Some(Errno::EINTR) => true,
            // Nothing was taken from the queue, and trying again would give the same.
            Some(Errno::EINVAL | Errno::EFAULT | Errno::EBADF) | None => {
                tracing::error!(%error, "cannot read events of the kernel");
                self.go_deaf();
                false
            }
            // The kernel has denied the one event for which it could not open a descriptor.
            Some(_) => {
                tracing::error!(%error, "the kernel failed a reader because it could not tell us of it");
                self.counters.denied();
                true
            }
        }
    }

    fn go_deaf(&mut self) {
        tracing::error!(
            "the gate listens no more: readers of incomplete files wait until the agent is restarted"
        );
        self.state.deaf = true;
        self.counters.broken();
    }

    /// Judges one event.
    fn admit(&mut self, event: Event) {
        if event.pid == self.state.own_pid {
            self.answer(&event, Ok(()));
            return;
        }
        self.counters.access();
        let inode = match fstat(&event.fd) {
            Ok(stat) => Inode { dev: stat.st_dev, ino: stat.st_ino },
            Err(errno) => {
                tracing::error!(%errno, pid = event.pid, "cannot tell which file a reader wants");
                self.answer(&event, Err(Errno::EIO));
                return;
            }
        };
        if !self.state.files.contains_key(&inode) {
            self.take_mail();
        }
        let (file, told) = match self.state.files.get_mut(&inode) {
            Some(Watched::Guarded { file, told }) => (file, told),
            Some(Watched::Failed(errno)) => {
                let errno = *errno;
                self.answer(&event, Err(errno));
                return;
            }
            Some(Watched::Released) => {
                self.answer(&event, Ok(()));
                return;
            }
            None => {
                tracing::error!(?inode, pid = event.pid, "an event of a file that is not guarded");
                self.answer(&event, Err(Errno::EIO));
                return;
            }
        };
        let range = wanted(self.mode, event.span, file.layout());
        (self.observer)(Access {
            file: file.id(),
            range,
            kind: if self.mode == Mode::Open { AccessKind::Open } else { AccessKind::Read },
            pid: event.pid,
            tid: event.pid,
            at_ns: monotonic_ns(),
        });
        match judge(range, |range| file.covers(range), self.state.stopping) {
            Verdict::Allow => self.answer(&event, Ok(())),
            Verdict::Deny(errno) => self.answer(&event, Err(errno)),
            Verdict::Hold => {
                let first = !std::mem::replace(told, true);
                let file = Arc::clone(file);
                self.hold(event, file, range, first);
            }
        }
    }

    fn hold(&mut self, event: Event, file: Arc<dyn Guarded>, range: ByteRange, first: bool) {
        let path = file.path().display();
        if first {
            tracing::info!(%path, pid = event.pid, %range, "reader held");
        } else {
            tracing::debug!(%path, pid = event.pid, %range, "reader held");
        }
        self.counters.held();
        let reader = Reader { event, file, range, since: Instant::now(), first, asked_again: false };
        self.ask(reader);
    }

    fn ask(&mut self, reader: Reader) {
        let (file, range) = (reader.file.id(), reader.range);
        let ticket = self.state.held.keep(reader);
        self.demand.demand(file, range, Reply::new(ticket, self.mailbox.clone()));
    }

    /// A demand has ended. The ready map has the last word: bytes may have been found wrong and forgotten
    /// between the promise and now, so they are asked for once more.
    fn finish(&mut self, ticket: u64, outcome: Result<(), Errno>) {
        let Some(mut reader) = self.state.held.take(ticket) else { return };
        if outcome.is_err() || reader.file.covers(reader.range) {
            self.let_go(reader, outcome);
        } else if reader.asked_again || self.state.stopping {
            tracing::error!(path = %reader.file.path().display(), range = %reader.range, "bytes promised are missing");
            self.let_go(reader, Err(Errno::EIO));
        } else {
            reader.asked_again = true;
            self.ask(reader);
        }
    }

    fn let_go(&self, reader: Reader, outcome: Result<(), Errno>) {
        let wait = reader.since.elapsed();
        self.counters.released(wait);
        self.answer(&reader.event, outcome);
        let Reader { event, file, range, first, .. } = reader;
        let (path, pid, wait_ms) = (file.path().display(), event.pid, wait.as_millis());
        match outcome {
            Ok(()) if first => tracing::info!(%path, pid, %range, wait_ms, "reader released"),
            Ok(()) => tracing::debug!(%path, pid, %range, wait_ms, "reader released"),
            Err(errno) => tracing::warn!(%path, pid, %range, wait_ms, %errno, "reader denied"),
        }
    }

    fn answer(&self, event: &Event, outcome: Result<(), Errno>) {
        let sent = match outcome {
            Ok(()) => self.group.allow(event),
            Err(errno) => {
                self.counters.denied();
                self.group.deny(event, errno)
            }
        };
        match sent {
            Ok(()) => {}
            // A killed reader leaves an event that takes its answer all the same; this is one answered by
            // another holder of the group.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::debug!(pid = event.pid, "a reader had its answer already");
            }
            Err(error) => tracing::error!(%error, pid = event.pid, "cannot answer a reader"),
        }
    }
}
