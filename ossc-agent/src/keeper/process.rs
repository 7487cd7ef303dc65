//! The keeper itself: one thread, one poll. `cli` calls [`run`] in the process that an agent started.
//!
//! It guards while its agent lives, waits for another one when that died, and denies when none came or the
//! agent took its leave with files incomplete; it ends when nobody has any of them open. Nothing ends it
//! earlier: what it cannot do it logs and tries again.

mod ending;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{dup2_stdin, setsid};

use super::files::Files;
use super::inherit::PATIENCE;
use super::place;
use super::wire::{self, Message, Received};
use crate::sys::fanotify::{Buffer, Group};
use crate::sys::{privileges, process, rights};

/// What ps(1) and pkill(1) see; at most 15 bytes.
const NAME: &str = "ossc-keeper";
/// Signals that end other programs: a keeper ends when its work is done. SIGIO comes when somebody opens a
/// file in the moment in which we ask for a lease on it.
const IGNORED: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGPIPE, Signal::SIGIO];
/// Between two looks whether a file is still in use, or whether hiding works now.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a keeper is told on its command line.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whose files.
    pub model_dir: PathBuf,
}

/// Serves the agent at the other end of standard input, and its successors. Returns when nobody needs it.
pub fn run(config: &Config) -> io::Result<()> {
    // Of no process group that a terminal or its agent's killer reaches.
    if let Err(error) = setsid() {
        tracing::debug!(%error, "the keeper leads a session already");
    }
    process::ignore(&IGNORED)?;
    // Another name than the agent's, so that whoever ends agents by name leaves it alone.
    if let Err(error) = std::fs::write("/proc/self/comm", NAME) {
        tracing::debug!(%error, "the keeper is called as its program is");
    }
    // Refused without CAP_SYS_RESOURCE: then it is as likely to be chosen as any small process, which is last.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        tracing::debug!(%error, "the keeper can be chosen when memory runs out");
    }
    privileges::conceal()?;
    privileges::keep_only(privileges::KEEPER);
    process::raise_open_files()?;
    let agent = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(File::open("/dev/null")?)?;
    serve(config, agent)
}

/// The same for an agent at the other end of this socket.
pub(super) fn serve(config: &Config, agent: OwnedFd) -> io::Result<()> {
    rights::set_patience(agent.as_fd(), PATIENCE)?;
    match wire::receive(agent.as_fd())? {
        Received::Message(Message::Start(deadline), fds) => {
            let Ok([group, record, listener]) = <[OwnedFd; 3]>::try_from(fds) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            let keeper = Process {
                config: config.clone(),
                group: Group::inherited(group),
                record,
                listener,
                stops: Vec::new(),
                files: Files::default(),
                deadline,
                left: false,
                phase: Phase::Guarding(agent),
                successor: None,
                buffer: Buffer::new(),
                told: HashSet::new(),
            };
            keeper.run();
            Ok(())
        }
        // The agent ended before it had anything to keep.
        Received::Closed => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Who answers readers.
enum Phase {
    /// The agent, which lives.
    Guarding(OwnedFd),
    /// Nobody, until then.
    Waiting { until: Instant },
    /// We do, with EIO. Whether the files have lost their names.
    Denying { hidden: bool },
    /// Nobody has to.
    Done,
}

struct Process {
    config: Config,
    group: Group,
    record: OwnedFd,
    listener: OwnedFd,
    /// What keeps the stop gate's programs at work, in the order in which it came.
    stops: Vec<OwnedFd>,
    files: Files,
    deadline: Duration,
    /// The agent has said that another one should come within the deadline.
    left: bool,
    phase: Phase,
    /// An agent that has taken copies of everything and has not said yet that it is the agent.
    successor: Option<OwnedFd>,
    buffer: Buffer,
    /// What the log was told of processes that are stopped.
    told: HashSet<(u32, String)>,
}

/// What the poll found.
#[derive(Default)]
struct Found {
    agent: bool,
    listener: bool,
    successor: bool,
}

impl Process {
    fn run(mut self) {
        while !matches!(self.phase, Phase::Done) {
            let found = self.wait();
            if found.agent {
                self.hear_agent();
            }
            if found.successor {
                self.hear_successor();
            }
            if found.listener {
                self.admit();
            }
            if self.successor.is_none() {
                self.act();
            }
        }
    }

    fn wait(&self) -> Found {
        let (agent, timeout) = match &self.phase {
            Phase::Guarding(agent) => (Some(agent.as_fd()), None),
            Phase::Waiting { until } => {
                let left = until.saturating_duration_since(Instant::now());
                // Looked at again from time to time when the deadline has passed and an agent is on its way.
                (None, Some(left.max(LOOK_EVERY)))
            }
            Phase::Denying { .. } | Phase::Done => (None, Some(LOOK_EVERY)),
        };
        // A successor acts for the group; until it is the agent or gone, nothing is due.
        let timeout = timeout.filter(|_| self.successor.is_none());
        let denying = matches!(self.phase, Phase::Denying { .. }) && self.successor.is_none();
        let group = denying.then(|| self.group.as_fd());
        let successor = self.successor.as_ref().map(AsFd::as_fd);
        let sources = [agent, Some(self.listener.as_fd()), successor, group];
        // A source that is absent now is stood in for by the listener, and not looked at.
        let mut fds = sources.map(|fd| PollFd::new(fd.unwrap_or(self.listener.as_fd()), PollFlags::POLLIN));
        let timeout = timeout.and_then(|timeout| PollTimeout::try_from(timeout).ok());
        match poll(&mut fds, timeout.unwrap_or(PollTimeout::NONE)) {
            Ok(_) => {}
            Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM) => return Found::default(),
            Err(error) => {
                tracing::error!(%error, "the keeper cannot wait");
                std::thread::sleep(LOOK_EVERY);
                return Found::default();
            }
        }
        let ready = |at: usize| sources[at].is_some() && fds[at].any().unwrap_or(false);
        Found { agent: ready(0), listener: ready(1), successor: ready(2) }
    }

    fn hear_agent(&mut self) {
        let Phase::Guarding(agent) = &self.phase else { return };
        match wire::receive(agent.as_fd()) {
            Ok(Received::Message(message, fds)) => self.obey(message, fds),
            Ok(Received::Unknown | Received::Version(_)) => {
                tracing::error!("the agent said something that its keeper does not know")
            }
            Ok(Received::Closed) => self.agent_died(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::error!(%error, "the keeper lost its agent");
                self.agent_died();
            }
        }
    }

    fn obey(&mut self, message: Message, fds: Vec<OwnedFd>) {
        match message {
            Message::Hold => fds.into_iter().for_each(|fd| self.files.add(fd)),
            Message::Stops => self.stops = fds,
            Message::Release(inode) => self.files.release(inode),
            Message::Sync => {
                if let Phase::Guarding(agent) = &self.phase {
                    answer(agent.as_fd(), Message::Ready, &[]);
                }
            }
            Message::Leave(deadline) => {
                self.deadline = deadline;
                self.left = true;
            }
            Message::Goodbye => self.phase = Phase::Denying { hidden: true },
            _ => tracing::error!(?message, "the agent said something out of turn"),
        }
    }

    fn agent_died(&mut self) {
        if self.files.is_empty() {
            // Whom the agent had not let go yet: nothing is gated any more.
            self.end_stopped();
            self.phase = Phase::Done;
            return;
        }
        let (incomplete, model_dir) = (self.files.len(), self.config.model_dir.display());
        let deadline_s = self.deadline.as_secs();
        if std::mem::take(&mut self.left) {
            let message = "the agent was stopped: its readers are held for the next one";
            tracing::info!(incomplete, %model_dir, deadline_s, "{message}");
        } else {
            let message = "the agent died: its readers are held until another one takes over";
            tracing::warn!(incomplete, %model_dir, deadline_s, "{message}");
        }
        self.phase = Phase::Waiting { until: Instant::now() + self.deadline };
    }

    /// Somebody connects: an agent that may take over where no other lives.
    fn admit(&mut self) {
        let socket = match rights::accept(self.listener.as_fd()) {
            Ok(socket) => socket,
            Err(error) => return tracing::warn!(%error, "nobody could be let in to the keeper"),
        };
        let is_free =
            matches!(self.phase, Phase::Waiting { .. } | Phase::Denying { .. }) && self.successor.is_none();
        match place::stranger(socket.as_fd()) {
            Ok(None) if is_free => {}
            Ok(None) => return,
            Ok(Some(uid)) => return tracing::error!(uid, "another user asked the keeper for its files"),
            Err(error) => return tracing::error!(%error, "cannot tell who asks the keeper for its files"),
        }
        match self.give(socket.as_fd()) {
            Ok(()) => self.successor = Some(socket),
            Err(error) => tracing::warn!(%error, "an agent could not take over"),
        }
    }

    fn give(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        rights::set_patience(socket, PATIENCE)?;
        wire::send(socket, Message::Record, &[self.record.as_fd()], true)?;
        wire::send_all(socket, Message::Files, &self.files.descriptors())?;
        if !self.stops.is_empty() {
            let stops: Vec<_> = self.stops.iter().map(AsFd::as_fd).collect();
            wire::send(socket, Message::Stops, &stops, true)?;
        }
        wire::send(socket, Message::Group, &[self.group.as_fd()], true)
    }

    fn hear_successor(&mut self) {
        let Some(successor) = self.successor.take() else { return };
        match wire::receive(successor.as_fd()) {
            Ok(Received::Message(Message::Adopt(deadline), _)) => {
                tracing::info!(model_dir = %self.config.model_dir.display(), "another agent has taken over");
                self.deadline = deadline;
                self.phase = Phase::Guarding(successor);
            }
            Ok(Received::Closed) => tracing::warn!("an agent that started to take over has ended"),
            Ok(Received::Version(version)) => {
                tracing::error!(
                    version,
                    "an agent of another version could not take over; waiting for another one"
                );
            }
            Ok(_) => tracing::error!("an agent that started to take over said something out of turn"),
            Err(error) => tracing::warn!(%error, "an agent that started to take over is lost"),
        }
    }

    /// What is due in this phase.
    fn act(&mut self) {
        match self.phase {
            Phase::Waiting { until } if Instant::now() >= until => self.give_up(),
            Phase::Denying { .. } => {
                self.deny_events();
                self.end_stopped();
                self.end_if_unused();
            }
            _ => {}
        }
    }
}

fn answer(socket: BorrowedFd<'_>, message: Message, fds: &[BorrowedFd<'_>]) {
    if let Err(error) = wire::send(socket, message, fds, true) {
        tracing::warn!(%error, "the keeper cannot answer its agent");
    }
}
