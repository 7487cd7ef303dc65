//! The gate's thread: takes events from the kernel, judges them, and has `held` keep the readers that must
//! wait. It owns all of that state; the rest of the agent reaches it by mail.
//!
//! Readers that an earlier agent left are taken over first; until every marked file is known the kernel is
//! not listened to.
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
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;

use super::Shared;
use super::capacity::Capacity;
use super::decision::{Verdict, judge, wanted};
use super::demand::{Demand, Guarded};
use super::held::Held;
use super::mailbox::Message;
use super::mode::Mode;
use super::stops::{self, Stops};
use crate::base::{Access, AccessKind, ByteRange};
use crate::keeper::{Pending, Wanted};
use crate::store::Inode;
use crate::sys::fanotify::{BATCH, Buffer, Event, Malformed, Span};
use crate::sys::process::monotonic_ns;
use crate::sys::reader;

/// How long the thread looks for more after an event before it sleeps. Being woken is the larger part of what
/// an event costs, and a reader that goes through ready bytes is back within this time: 20 instead of 51
/// us a read, one reader, 4 KiB each, on a virtual machine with two processors. It yields meanwhile, so
/// that it takes nothing from threads that have work.
const LINGER: Duration = Duration::from_micros(20);

/// How long the thread looks, after it was told of a process that is to stop, whether it has: on an idle machine that
/// takes some 20 us, and the next look without this would be a millisecond later.
const SETTLE: Duration = Duration::from_micros(200);

const MILLISECOND: Duration = Duration::from_millis(1);

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
    shared: Arc<Shared>,
    mode: Mode,
    capacity: Capacity,
    observer: O,
    messages: Receiver<Message>,
    files: HashMap<Inode, Watched>,
    held: Held<D>,
    stops: Stops<D>,
    /// Every marked file is known.
    begun: bool,
    /// The agent fetches no more.
    stopping: bool,
    /// The thread ends once the kernel's queue is empty.
    quitting: bool,
    /// The thread ends now and whoever it holds stays held; dropped when it has.
    leaving: Option<Sender<()>>,
    /// The thread listens to the kernel no more.
    deaf: bool,
    /// There may be news of stopped processes.
    rung: bool,
    /// When there last was.
    rang: Instant,
    /// Readable when there is; a duplicate, so that the programs' maps need not be locked to wait for it.
    doorbell: Option<OwnedFd>,
    /// Our own thread group, whose events pass: a wait of ours for ourselves would never end.
    own_pid: u32,
}

impl<D: Demand, O: Fn(Access)> Watcher<D, O> {
    pub(super) fn new(
        shared: Arc<Shared>,
        mode: Mode,
        capacity: Capacity,
        demand: D,
        observer: O,
        messages: Receiver<Message>,
    ) -> Self {
        let demand = Arc::new(demand);
        let doorbell = shared.stopper.as_ref().and_then(|stopper| {
            let stopper = stopper.lock().unwrap_or_else(PoisonError::into_inner);
            stopper
                .doorbell()
                .try_clone_to_owned()
                .inspect_err(
                    |error| tracing::error!(%error, "stopped processes are looked for without being told"),
                )
                .ok()
        });
        Self {
            held: Held::new(Arc::clone(&shared), Arc::clone(&demand)),
            stops: Stops::new(Arc::clone(&shared), demand),
            shared,
            mode,
            capacity,
            observer,
            messages,
            files: HashMap::new(),
            begun: false,
            stopping: false,
            quitting: false,
            leaving: None,
            deaf: false,
            rung: false,
            rang: Instant::now(),
            doorbell,
            own_pid: std::process::id(),
        }
    }

    /// Runs until `Message::Quit`.
    pub(super) fn run(mut self) {
        let mut buffer = self.shared.record.buffer();
        let mut last_event = Instant::now();
        loop {
            self.take_mail();
            if self.leaving.is_some() {
                return;
            }
            self.rung |= self.stops.look_again_at().is_some_and(|at| at <= Instant::now());
            if self.begun && self.rung {
                self.rung = false;
                self.stops.look(&self.observer);
            }
            if self.take_events(&mut buffer) {
                last_event = Instant::now();
            } else if self.quitting && !self.stops.is_busy() {
                return;
            } else if self.rang.elapsed() < SETTLE && self.stops.is_busy() {
                // A process that is on its way to its stop is most likely about to arrive.
                thread::yield_now();
            } else if last_event.elapsed() < LINGER {
                thread::yield_now();
            } else if let Err(error) = self.wait() {
                tracing::error!(%error, "cannot wait for events of the kernel");
                return self.go_deaf();
            }
        }
    }

    /// Sleeps until there is mail, or an event that may be taken.
    fn wait(&mut self) -> Result<(), Errno> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![readable(self.shared.mailbox.wake_fd())];
        if self.room() > 0 {
            fds.push(readable(self.shared.group.as_fd()));
        }
        let doorbell = self.doorbell.as_ref().filter(|_| self.begun).map(|fd| readable(fd.as_fd()));
        let listening = doorbell.is_some();
        fds.extend(doorbell);
        // In whole milliseconds, rounded up.
        let left = |at: Instant| at.saturating_duration_since(Instant::now()) + MILLISECOND;
        let timeout = self.stops.look_again_at().and_then(|at| PollTimeout::try_from(left(at)).ok());
        let timeout = timeout.unwrap_or(PollTimeout::NONE);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM) => {}
            Err(errno) => return Err(errno),
        }
        let rung = listening && fds.last().is_some_and(|fd| fd.any().unwrap_or(false));
        if fds[0].any().unwrap_or(false) {
            self.shared.mailbox.quiet();
        }
        if rung {
            self.rang = Instant::now();
        }
        self.rung |= rung;
        Ok(())
    }

    /// Whether an event is of this process, which must never wait for itself.
    fn is_own(&self, event: &Event) -> bool {
        match self.mode {
            Mode::Stop => reader::is_own_thread(event.pid),
            _ => event.pid == self.own_pid,
        }
    }

    /// How many events may be taken now.
    fn room(&self) -> usize {
        if self.deaf || !self.begun { 0 } else { self.capacity.left(self.held.len()).min(BATCH) }
    }

    fn take_mail(&mut self) {
        while self.leaving.is_none()
            && let Ok(message) = self.messages.try_recv()
        {
            match message {
                Message::Watch(file, inode) => {
                    if let Some(inode) = inode {
                        self.stops.watch(inode, Arc::clone(&file));
                    }
                    self.files.insert(file.inode(), Watched::Guarded { file, told: false });
                }
                Message::Begin(pending) => {
                    self.begun = true;
                    self.rung = true;
                    self.stops.take_over();
                    pending.into_iter().for_each(|pending| self.take_over(pending));
                }
                Message::Release(inode) => {
                    self.files.insert(inode, Watched::Released);
                    self.held.complete(inode);
                    self.stops.release(inode);
                }
                Message::Fail(inode, errno) => {
                    self.files.insert(inode, Watched::Failed(errno));
                    self.held.fail(inode, errno);
                    self.stops.fail(inode, errno);
                }
                Message::Done { ticket, outcome } if ticket < stops::FIRST_TICKET => {
                    self.held.finish(ticket, outcome);
                }
                Message::Done { ticket, outcome } => self.stops.finish(ticket, outcome),
                Message::Stop(answered) => {
                    self.stopping = true;
                    self.held.settle();
                    self.stops.stop();
                    drop(answered);
                }
                Message::Spare => {
                    self.held.spare();
                    self.stops.spare();
                }
                Message::Leave(left) => self.leaving = Some(left),
                Message::Quit => self.quitting = true,
            }
        }
    }

    /// Takes one batch from the kernel. Returns whether there may be more.
    fn take_events(&mut self, buffer: &mut Buffer) -> bool {
        let room = self.room();
        if room == 0 {
            return false;
        }
        let batch = match self.shared.group.read(self.mode.mark(), room, buffer) {
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
        buffer.settle();
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
                self.shared.counters.denied();
                true
            }
        }
    }

    fn go_deaf(&mut self) {
        tracing::error!("the gate is broken: readers of incomplete files wait until the agent is restarted");
        self.deaf = true;
        self.shared.counters.broken();
    }

    /// Goes on with a reader that an earlier agent had.
    fn take_over(&mut self, pending: Pending) {
        let Pending { number, pid, wanted, place } = pending;
        let Some(fd) = place else {
            // Another event may be given the number as soon as whoever has it here closes it.
            tracing::warn!(pid, number, "a held reader could not be taken over");
            self.held.answer_number(number);
            return;
        };
        let event = Event { fd, pid, span: None };
        let verdict = match wanted {
            Wanted::File(inode, range) => match self.files.get(&inode) {
                Some(Watched::Guarded { file, .. }) => {
                    match judge(range, |range| file.covers(range), self.stopping) {
                        Verdict::Hold => return self.held.hold(event, Arc::clone(file), range, false),
                        Verdict::Allow => Ok(()),
                        Verdict::Deny(errno) => Err(errno),
                    }
                }
                Some(Watched::Failed(errno)) => Err(*errno),
                Some(Watched::Released) => Ok(()),
                None => Err(Errno::EIO),
            },
            Wanted::AnyFile(range) => match self.candidates() {
                Some(files) if !self.stopping => return self.held.hold_for_any(event, files, range),
                _ => Err(Errno::EIO),
            },
        };
        self.held.answer_on_record(&event, verdict);
    }

    /// Every file that can have the bytes a reader of an unknown file wants; `None` when one never will.
    fn candidates(&self) -> Option<Vec<Arc<dyn Guarded>>> {
        let all = self.files.values().filter(|watched| !matches!(watched, Watched::Released));
        all.map(|watched| match watched {
            Watched::Guarded { file, .. } => Some(Arc::clone(file)),
            _ => None,
        })
        .collect()
    }

    /// Judges one event.
    fn admit(&mut self, mut event: Event) {
        if self.is_own(&event) {
            return self.held.answer(&event, Ok(()));
        }
        self.shared.counters.access();
        let inode = match fstat(&event.fd) {
            Ok(stat) => Inode { dev: stat.st_dev, ino: stat.st_ino },
            Err(errno) => {
                tracing::error!(%errno, pid = event.pid, "cannot tell which file a reader wants");
                return self.held.answer(&event, Err(Errno::EIO));
            }
        };
        if matches!(self.files.get(&inode), None | Some(Watched::Released)) {
            // Told of before it was marked, or marked again, perhaps since the last look.
            self.take_mail();
        }
        match self.files.get_mut(&inode) {
            Some(Watched::Guarded { file, told }) => {
                if self.mode == Mode::Stop {
                    let call = self.stops.span(event.pid, inode);
                    name(&mut event, call);
                }
                let range = wanted(self.mode, event.span, file.layout());
                (self.observer)(access(self.mode, &event, &**file, range));
                match judge(range, |range| file.covers(range), self.stopping) {
                    Verdict::Allow => self.held.answer(&event, Ok(())),
                    Verdict::Deny(errno) => self.held.answer(&event, Err(errno)),
                    Verdict::Hold => {
                        let first = !std::mem::replace(told, true);
                        self.held.hold(event, Arc::clone(file), range, first);
                    }
                }
            }
            Some(Watched::Failed(errno)) => self.held.answer(&event, Err(*errno)),
            Some(Watched::Released) => self.held.answer(&event, Ok(())),
            None => {
                tracing::error!(?inode, pid = event.pid, "an event of a file that is not guarded");
                self.held.answer(&event, Err(Errno::EIO));
            }
        }
    }
}

/// Adds to an event of a group that names threads what the programs know of the call that the thread is in: its
/// range and its process.
fn name(event: &mut Event, call: Option<(u32, Span)>) {
    event.span = call.map(|(_, span)| span);
    event.pid = match call {
        Some((pid, _)) => pid,
        // A reader of a kind whose range is not known; a thread that has just been killed has no process any more.
        None => reader::process_of(event.pid).unwrap_or(event.pid),
    };
}

/// The event as observers see it. The kernel names the process but not its thread, and does not tell a
/// mapping from a read.
fn access(mode: Mode, event: &Event, file: &dyn Guarded, range: ByteRange) -> Access {
    let kind = match mode {
        Mode::PreContent { .. } | Mode::Stop => AccessKind::Read,
        Mode::Open => AccessKind::Open,
    };
    Access { file: file.id(), range, kind, pid: event.pid, tid: event.pid, at_ns: monotonic_ns() }
}
