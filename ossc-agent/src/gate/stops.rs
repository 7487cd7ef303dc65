//! Processes that the stop gate's programs have stopped: each waits until every byte of incomplete files that it
//! has mapped is there, and every byte of those it is about to copy without holes, and goes on then. mmap(2) has
//! succeeded already, so a process whose bytes can never be had is killed.
//!
//! Driven by the thread in `watch`. What must be there is read from /proc/PID/maps, never from what a call asked
//! for, so that it does not matter how many threads mapped what, or who forked. A process goes on only when its
//! mappings cannot change between that look and its SIGCONT: no thread runs, and none is inside a call that maps.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::Shared;
use super::decision::{Fate, fate};
use super::demand::{Demand, Guarded, Reply};
use super::pace::Pace;
use super::snapshot::Waiting;
use crate::base::{Access, AccessKind, ByteRange};
use crate::bpf::stop::{KernelInode, LetGo, Stopped, Stopper};
use crate::store::Inode;
use crate::sys::fanotify::Span;
use crate::sys::process::monotonic_ns;
use crate::sys::reader::{self, Handle, Mapped};

/// Tickets of stopped processes begin here, those of held events at 0.
pub(super) const FIRST_TICKET: u64 = 1 << 63;

/// A file that processes may have mapped.
struct Gated {
    file: Arc<dyn Guarded>,
    /// It can never be right.
    failed: Option<Errno>,
    /// Whether the log has told of a stopped process.
    told: bool,
}

/// One stopped process.
struct Process {
    handle: Handle,
    /// As it was when we looked last.
    stopped: Stopped,
    since: Instant,
    /// Demands without an outcome.
    waits: usize,
    /// What was demanded last.
    asked: Vec<(KernelInode, ByteRange)>,
    /// Whether that was demanded before, and promised.
    asked_again: bool,
    /// Writable private mappings of bytes that were missing.
    suspects: Vec<Mapped>,
    /// What a demand said that failed.
    failed: Option<Errno>,
    /// Whether the log has told of it as the first of a file.
    first: bool,
    /// What it is told of by in the counts, which one whose bytes were all there never is.
    number: Option<u64>,
    killed: bool,
    /// Its threads had all stopped.
    settled: bool,
    /// When to look again, unless it has settled.
    pace: Pace,
    /// Why it could not be looked at or continued, as the log was told.
    stuck: Option<String>,
}

/// All stopped processes.
pub(super) struct Stops<D> {
    shared: Arc<Shared>,
    demand: Arc<D>,
    files: HashMap<KernelInode, Gated>,
    processes: HashMap<u32, Process>,
    /// Whose demand it is.
    tickets: HashMap<u64, u32>,
    next_ticket: u64,
    stopping: bool,
    /// Whether a process whose demand failed stays stopped.
    sparing: bool,
}

impl<D: Demand> Stops<D> {
    pub(super) fn new(shared: Arc<Shared>, demand: Arc<D>) -> Self {
        Self {
            shared,
            demand,
            files: HashMap::new(),
            processes: HashMap::new(),
            tickets: HashMap::new(),
            next_ticket: FIRST_TICKET,
            stopping: false,
            sparing: false,
        }
    }

    fn stopper(shared: &Shared) -> Option<MutexGuard<'_, Stopper>> {
        shared.stopper.as_ref().map(|stopper| stopper.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The file is gated by this name.
    pub(super) fn watch(&mut self, inode: KernelInode, file: Arc<dyn Guarded>) {
        self.files.insert(inode, Gated { file, failed: None, told: false });
    }

    /// The file is complete, and not gated any more.
    pub(super) fn release(&mut self, inode: Inode) {
        self.files.retain(|_, gated| gated.file.inode() != inode);
        self.look_at_all();
        self.detach_if_idle();
    }

    /// Takes the programs out of the kernel when every file is complete and nobody is stopped.
    fn detach_if_idle(&self) {
        if self.files.is_empty()
            && self.processes.is_empty()
            && let Some(mut stopper) = Self::stopper(&self.shared)
            // One may be gated already of which the mail has not come.
            && !stopper.gates_any()
        {
            stopper.detach();
        }
    }

    /// The file will never be right.
    pub(super) fn fail(&mut self, inode: Inode, errno: Errno) {
        for gated in self.files.values_mut().filter(|gated| gated.file.inode() == inode) {
            gated.failed = Some(errno);
        }
        self.look_at_all();
    }

    /// From now on nobody waits.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        self.look_at_all();
    }

    /// Ends nobody any more whose demand fails: the next agent will ask again.
    pub(super) fn spare(&mut self) {
        self.sparing = true;
    }

    /// A demand has an outcome.
    pub(super) fn finish(&mut self, ticket: u64, outcome: Result<(), Errno>) {
        if self.sparing && outcome.is_err() {
            return;
        }
        let Some(pid) = self.tickets.remove(&ticket) else { return };
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.waits = process.waits.saturating_sub(1);
        process.failed = process.failed.or(outcome.err());
        if process.waits == 0 || process.failed.is_some() {
            self.look_at(pid, &|_| {});
        }
    }

    /// When some process has to be looked at again.
    pub(super) fn look_again_at(&self) -> Option<Instant> {
        self.processes
            .values()
            .filter(|process| process.is_unsettled())
            .map(|process| process.pace.again_at())
            .min()
    }

    /// Whether some process is about to go on or to be killed; one that cannot be continued is the keeper's in the end.
    pub(super) fn is_busy(&self) -> bool {
        self.processes.values().any(|process| process.is_unsettled() && process.stuck.is_none())
    }

    /// The bytes that the read of this file wants which a thread waits in, with the thread's process.
    pub(super) fn span(&self, tid: u32, file: Inode) -> Option<(u32, Span)> {
        let (inode, _) = self.files.iter().find(|(_, gated)| gated.file.inode() == file)?;
        Self::stopper(&self.shared)?.read_in_flight(tid, *inode)
    }

    fn look_at_all(&mut self) {
        for pid in self.processes.keys().copied().collect::<Vec<_>>() {
            self.look_at(pid, &|_| {});
        }
    }

    /// Looks at every process about which there is something new, and at those that have not stopped yet.
    pub(super) fn look(&mut self, observer: &dyn Fn(Access)) {
        let stopped = {
            let Some(mut stopper) = Self::stopper(&self.shared) else { return };
            for (pid, why) in stopper.quiet() {
                self.shared.counters.denied();
                tracing::error!(pid, why, "a process was killed as it was about to look at missing bytes");
            }
            stopper.stopped()
        };
        let stopped = match stopped {
            Ok(stopped) => stopped,
            Err(error) => return tracing::error!(%error, "cannot tell which processes are stopped"),
        };
        let gone = |pid: &u32| stopped.iter().all(|stopped| stopped.pid != *pid);
        let gone: Vec<_> = self.processes.extract_if(|pid, _| gone(pid)).collect();
        gone.into_iter().for_each(|(pid, process)| self.forget(pid, &process));
        let now = Instant::now();
        for stopped in stopped {
            let pid = stopped.pid;
            match self.processes.get_mut(&pid) {
                Some(process) => {
                    let new = process.stopped != stopped;
                    process.stopped = stopped;
                    if new {
                        process.pace.changed(now);
                    }
                    if new || (process.is_unsettled() && process.pace.again_at() <= now) {
                        self.look_at(pid, &|_| {});
                    }
                }
                None => match Handle::open(pid) {
                    Ok(handle) => {
                        self.processes.insert(pid, Process::new(handle, stopped));
                        self.look_at(pid, observer);
                    }
                    // It has ended, and its entry will go.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => tracing::error!(%error, pid, "a stopped process cannot be reached"),
                },
            }
        }
        self.detach_if_idle();
    }

    /// Goes on with those whom an agent that died had not quite let go.
    pub(super) fn take_over(&mut self) {
        let Some(mut stopper) = Self::stopper(&self.shared) else { return };
        for stopped in stopper.half_released() {
            let outcome = Handle::open(stopped.pid).and_then(|handle| stopper.go_on(stopped, &handle));
            if let Err(error) = outcome {
                tracing::warn!(%error, pid = stopped.pid, "a process that was let go cannot be continued");
            }
        }
    }

    /// Decides on one process.
    fn look_at(&mut self, pid: u32, observer: &dyn Fn(Access)) {
        // In this order: what is mapped does not change after it has settled, and if it does all the same, because
        // somebody else has continued the process, the programs hold it for another moment.
        let Some(now) = Self::stopper(&self.shared).and_then(|stopper| stopper.held_now(pid)) else {
            // It has ended, or goes on already. A SIGSTOP now would be one that nobody takes back.
            if let Some(process) = self.processes.remove(&pid) {
                self.forget(pid, &process);
            }
            return;
        };
        let settled = Self::stopper(&self.shared).is_some_and(|stopper| stopper.has_settled(pid));
        let mapped = reader::mapped(pid);
        let copied = Self::stopper(&self.shared).map_or_else(Vec::new, |stopper| stopper.copied_by(pid));
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.stopped != now {
            process.stopped = now;
            process.pace.changed(Instant::now());
        }
        process.look_again_unless(settled && mapped.is_ok());
        let signal = if process.killed { Signal::SIGKILL } else { Signal::SIGSTOP };
        if (process.killed || !settled)
            && let Err(error) = process.handle.signal(signal)
            && error.kind() == io::ErrorKind::NotFound
        {
            // It has ended and was waited for: nothing keeps the programs in the kernel for it, whatever is on the map.
            if let Some(process) = self.processes.remove(&pid) {
                self.forget(pid, &process);
            }
            return;
        }
        if process.killed {
            return;
        }
        let mapped = match mapped {
            Ok(mapped) => mapped,
            // It may be ending.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                return process.is_stuck(pid, "the mappings of a stopped process cannot be read", &error);
            }
        };
        let mut failed = process.failed;
        let mut asked = Vec::new();
        for mapping in mapped {
            let inode = KernelInode::new(mapping.device, mapping.inode);
            match self.files.get(&inode) {
                Some(gated) => {
                    let range = mapping.range.clip(gated.file.layout().size());
                    let (file, tid) = (gated.file.id(), pid);
                    observer(Access { file, range, kind: AccessKind::Map, pid, tid, at_ns: monotonic_ns() });
                    if gated.failed.is_some() || !gated.file.covers(range) {
                        failed = failed.or(gated.failed);
                        asked.push((inode, range));
                        process.suspects.extend(mapping.copies.then_some(mapping));
                    } else if now.copied {
                        // The bytes may have come between the copy and this look.
                        process.suspects.extend(mapping.copies.then_some(mapping));
                    }
                }
                // Gated by an agent that died, and not one of ours.
                None if Self::stopper(&self.shared).is_some_and(|stopper| stopper.is_gated(inode)) => {
                    failed = Some(Errno::EIO);
                }
                None => {}
            }
        }
        for inode in copied {
            if let Some(gated) = self.files.get(&inode) {
                let whole = ByteRange::new(0, gated.file.layout().size());
                if gated.failed.is_some() || !gated.file.covers(whole) {
                    failed = failed.or(gated.failed);
                    asked.push((inode, whole));
                }
            }
        }
        let promised = process.waits == 0 && process.asked_again && asked == process.asked;
        // Looked at once it has settled, also when the file has been filled meanwhile: that leaves copies as they are.
        let suspects = if settled { std::mem::take(&mut process.suspects) } else { Vec::new() };
        let broken = suspects.iter().any(|copy| has_copies(pid, copy));
        match fate(
            asked.is_empty(),
            failed.or(broken.then_some(Errno::EFAULT)),
            promised,
            self.stopping,
            settled,
        ) {
            Fate::GoOn => self.let_go(pid),
            Fate::Settle => {}
            Fate::End(errno) => self.end(pid, errno),
            Fate::Wait => self.ask(pid, asked),
        }
    }

    /// Demands what a process waits for, unless that is under way.
    fn ask(&mut self, pid: u32, missing: Vec<(KernelInode, ByteRange)>) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.waits > 0 {
            return;
        }
        if process.number.is_none()
            && let Some((inode, range)) = missing.first()
            && let Some(gated) = self.files.get(inode)
        {
            let waiting = Waiting { pid, file: gated.file.id(), range: *range, since: process.since };
            process.number = Some(self.shared.counters.held(waiting));
        }
        // Bytes may have been found wrong and forgotten since they were promised: they are asked for once more.
        process.asked_again = process.asked == missing;
        process.asked.clone_from(&missing);
        for (inode, range) in missing {
            let Some(gated) = self.files.get_mut(&inode) else { continue };
            let path = gated.file.path().display();
            if std::mem::replace(&mut gated.told, true) {
                tracing::debug!(%path, pid, %range, "reader held");
            } else {
                tracing::info!(%path, pid, %range, stopped = true, "reader held");
                process.first = true;
            }
            let ticket = self.next_ticket;
            self.next_ticket = ticket.checked_add(1).unwrap_or(FIRST_TICKET);
            self.tickets.insert(ticket, pid);
            process.waits += 1;
            self.demand.demand(gated.file.id(), range, Reply::new(ticket, self.shared.mailbox.clone()));
        }
    }

    fn let_go(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let Some(mut stopper) = Self::stopper(&self.shared) else { return };
        let outcome = stopper.let_go(process.stopped, &process.handle);
        drop(stopper);
        let goes = match outcome {
            Ok(LetGo::HeldAnew) => return process.look_again_unless(false),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                process.look_again_unless(false);
                return process.is_stuck(pid, "a stopped process cannot be continued; trying again", &error);
            }
            outcome => outcome.ok(),
        };
        let Some(process) = self.processes.remove(&pid) else { return };
        self.forget(pid, &process);
        match goes {
            None => {}
            Some(outcome) => {
                let wait_ms = process.since.elapsed().as_millis();
                if outcome == LetGo::StaysStopped {
                    tracing::info!(
                        pid,
                        wait_ms,
                        "reader released; it stays stopped, as somebody else wants it"
                    );
                } else if process.first {
                    tracing::info!(pid, wait_ms, "reader released");
                } else {
                    tracing::debug!(pid, wait_ms, "reader released");
                }
            }
        }
    }

    /// What was known of a process that is held no longer. Outcomes that are still to come are not those of a later stop
    /// of the same process.
    fn forget(&mut self, pid: u32, process: &Process) {
        self.tickets.retain(|_, whose| *whose != pid);
        if let Some(number) = process.number {
            self.shared.counters.released(number, process.since.elapsed());
        }
    }

    fn end(&mut self, pid: u32, errno: Errno) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.killed = true;
        self.shared.counters.denied();
        let why = match errno {
            Errno::EFAULT => "it has private copies of bytes that were not there yet",
            _ => "they cannot be had",
        };
        tracing::error!(
            pid,
            %errno,
            why,
            "a process that has mapped missing bytes is killed, because mmap(2) cannot fail any more"
        );
        match process.handle.signal(Signal::SIGKILL) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(%error, pid, "it cannot be killed, and stays stopped"),
        }
    }
}

impl Process {
    fn new(handle: Handle, stopped: Stopped) -> Self {
        let now = Instant::now();
        Self {
            handle,
            stopped,
            since: now,
            waits: 0,
            asked: Vec::new(),
            asked_again: false,
            suspects: Vec::new(),
            failed: None,
            first: false,
            number: None,
            killed: false,
            settled: false,
            pace: Pace::new(now),
            stuck: None,
        }
    }

    fn is_unsettled(&self) -> bool {
        !self.settled && !self.killed
    }

    /// Notes whether it has settled; if not it is looked at again.
    fn look_again_unless(&mut self, settled: bool) {
        self.settled = settled;
        self.pace.looked(Instant::now());
    }

    /// Tells the log why it stays stopped, once for each cause.
    fn is_stuck(&mut self, pid: u32, what: &str, error: &io::Error) {
        let why = format!("{what}: {error}");
        if self.stuck.as_ref() != Some(&why) {
            tracing::error!(%error, pid, "{what}");
            self.stuck = Some(why);
        }
    }
}

/// Whether a mapping of missing bytes has pages of its own already, copied from holes: MAP_POPULATE or mlockall(2)
/// of a private writable mapping. Filling the file would not change them.
fn has_copies(pid: u32, mapping: &Mapped) -> bool {
    reader::has_private_pages(pid, mapping.address, mapping.range.len()).unwrap_or(true)
}
