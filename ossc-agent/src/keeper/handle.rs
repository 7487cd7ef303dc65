//! The agent's side of its keeper: starts one or takes one over, tells it what is complete, says goodbye.
//!
//! Driven by `agent`. While it lives the keeper holds what it was given; when it ends the socket says so
//! ([`Keeper::socket`] becomes readable) and the agent replaces it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::error::Error;
use super::inherit::PATIENCE;
use super::wire::{self, Message, Received};
use super::{ARGUMENT, place};
use crate::store::Inode;
use crate::sys::{lease, privileges, rights};

/// This program, also when its file was replaced by another version since.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// What its command line begins with.
const NAME: &str = "ossc-agent";

/// How keepers of this agent are started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose files.
    pub model_dir: PathBuf,
    /// How long readers wait for another agent.
    pub deadline: Duration,
    /// What follows [`ARGUMENT`] on the command line.
    pub arguments: Vec<OsString>,
}

/// Duplicates of what holds readers.
#[derive(Debug)]
pub struct Guards {
    group: OwnedFd,
    record: OwnedFd,
    stops: Vec<OwnedFd>,
}

impl Guards {
    /// Of the group, the record, and the descriptors of the stop gate's programs.
    pub fn new(group: impl AsFd, record: impl AsFd, stops: &[BorrowedFd<'_>]) -> Result<Self, Error> {
        let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(Error::Start);
        let stops = stops.iter().map(|fd| own(*fd)).collect::<Result<_, _>>()?;
        Ok(Self { group: own(group.as_fd())?, record: own(record.as_fd())?, stops })
    }
}

/// A living keeper.
#[derive(Debug)]
pub struct Keeper {
    settings: Settings,
    socket: OwnedFd,
    group: OwnedFd,
    record: OwnedFd,
    /// What keeps the stop gate's programs at work.
    stops: Vec<OwnedFd>,
    /// Files of an earlier agent that this one does not fill.
    strays: Vec<(Inode, OwnedFd)>,
    /// Not ours when it was taken over.
    child: Option<Child>,
}

impl Keeper {
    /// Starts a keeper for the readers of these files. `strays` are those of the files taken over that are not among
    /// them.
    pub fn start(
        settings: Settings,
        guards: Guards,
        files: &[BorrowedFd<'_>],
        strays: Vec<(Inode, OwnedFd)>,
    ) -> Result<Self, Error> {
        let (socket, child) = spawn(&settings)?;
        Self::meet(settings, (socket, Some(child)), guards, files, strays)
    }

    /// Gives everything to a new keeper at the other end of this socket.
    pub(super) fn meet(
        settings: Settings,
        (socket, child): (OwnedFd, Option<Child>),
        Guards { group, record, stops }: Guards,
        files: &[BorrowedFd<'_>],
        strays: Vec<(Inode, OwnedFd)>,
    ) -> Result<Self, Error> {
        let keeper = Self { settings, socket, group, record, stops, strays, child };
        keeper.introduce(files)?;
        Ok(keeper)
    }

    /// Makes the keeper that gave `socket` ours, and tells it of all files that are not complete now. `strays`
    /// are those of the files it gave that are not among them.
    pub fn adopt(
        settings: Settings,
        socket: OwnedFd,
        Guards { group, record, stops }: Guards,
        files: &[BorrowedFd<'_>],
        strays: Vec<(Inode, OwnedFd)>,
    ) -> Result<Self, Error> {
        let keeper = Self { group, record, stops, settings, socket, strays, child: None };
        let adopt = Message::Adopt(keeper.settings.deadline);
        keeper.say(adopt, &[])?;
        keeper.hand_over(files)?;
        Ok(keeper)
    }

    /// Starts another one after it has ended.
    pub fn replace(&mut self, files: &[BorrowedFd<'_>]) -> Result<(), Error> {
        if let Some(mut child) = self.child.take() {
            match child.try_wait() {
                Ok(Some(status)) => tracing::warn!(%status, "the keeper has ended"),
                // It has closed its socket, so it is as good as gone.
                Ok(None) => reap(child),
                Err(error) => tracing::warn!(%error, "the keeper's status is lost"),
            }
        }
        let (socket, child) = spawn(&self.settings)?;
        self.socket = socket;
        self.child = Some(child);
        self.introduce(files)
    }

    /// Readable when the keeper has ended.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// A file is complete. Never blocks.
    pub fn release(&self, inode: Inode) {
        if let Err(error) = wire::send(self.socket.as_fd(), Message::Release(inode), &[], false) {
            // It then takes the file for one that is not complete, which is the safe side.
            tracing::debug!(%error, "the keeper was not told of a complete file");
        }
    }

    /// The programs that stop processes are not needed any more: every file is complete and nobody is stopped. Never
    /// blocks.
    pub fn release_stops(&mut self) {
        if std::mem::take(&mut self.stops).is_empty() {
            return;
        }
        if let Err(error) = wire::send(self.socket.as_fd(), Message::Stops, &[], false) {
            tracing::debug!(%error, "the keeper keeps programs attached that stop nobody");
        }
    }

    /// A file that was complete is about to be emptied: holds it again, from before its first byte goes. The keeper hears
    /// of this before it hears of the agent's death.
    pub fn hold(&self, file: BorrowedFd<'_>) -> Result<(), Error> {
        self.say(Message::Hold, &[file])
    }

    /// Whether files of an earlier version are still in use.
    #[must_use]
    pub fn has_strays(&self) -> bool {
        !self.strays.is_empty()
    }

    /// Lets go of files of an earlier version that nobody has open any more, so that their space is free again.
    /// SIGIO must not end this process: it comes when somebody opens one in this very moment.
    pub fn release_unused_strays(&mut self) {
        let unused =
            |(_, fd): &mut (Inode, OwnedFd)| matches!(lease::is_open_elsewhere(fd.as_fd()), Ok(false));
        let unused: Vec<_> = self.strays.extract_if(.., unused).collect();
        unused.iter().for_each(|(inode, _)| self.release(*inode));
    }

    /// The agent is about to exit and has answered nobody: readers stay held until another agent takes over or
    /// `deadline` has passed. A keeper of an earlier version does not know the message, and keeps the deadline it was
    /// started with.
    pub fn leave(self, deadline: Duration) {
        if let Err(error) = self.say(Message::Leave(deadline), &[]) {
            tracing::error!(%error, "the keeper has ended, too: programs that have incomplete files open will see holes");
        }
    }

    /// The agent is about to exit: nobody is held any more, and what is not complete is hidden.
    pub fn say_goodbye(self, complete: bool) {
        if complete && let Err(error) = place::forget(&self.settings.model_dir) {
            tracing::debug!(%error, "the keeper's socket stays");
        }
        if let Err(error) = self.say(Message::Goodbye, &[]) {
            tracing::error!(%error, "the keeper has ended, too: programs that have incomplete files open will see holes");
        }
        if let Some(child) = self.child {
            reap(child);
        }
    }

    fn introduce(&self, files: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let model_dir = &self.settings.model_dir;
        let listener = place::listen(model_dir).map_err(Error::talk("listen for", model_dir))?;
        let all = [self.group.as_fd(), self.record.as_fd(), listener.as_fd()];
        self.say(Message::Start(self.settings.deadline), &all)?;
        self.hand_over(files)
    }

    fn hand_over(&self, files: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let model_dir = &self.settings.model_dir;
        let talk = |what| Error::talk(what, model_dir);
        rights::set_patience(self.socket.as_fd(), PATIENCE).map_err(talk("set up the connection to"))?;
        if !self.stops.is_empty() {
            let stops: Vec<_> = self.stops.iter().map(AsFd::as_fd).collect();
            self.say(Message::Stops, &stops)?;
        }
        let files: Vec<_> =
            self.strays.iter().map(|(_, fd)| fd.as_fd()).chain(files.iter().copied()).collect();
        wire::send_all(self.socket.as_fd(), Message::Hold, &files).map_err(talk("speak to"))?;
        self.say(Message::Sync, &[])?;
        match wire::receive(self.socket.as_fd()).map_err(talk("hear"))? {
            Received::Message(Message::Ready, _) => Ok(()),
            _ => Err(Error::Answer { model_dir: model_dir.clone() }),
        }
    }

    fn say(&self, message: Message, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        wire::send(self.socket.as_fd(), message, fds, true)
            .map_err(Error::talk("speak to", &self.settings.model_dir))
    }
}

/// Waits for a keeper that ends, should this process live on: else it would stay in the list of processes.
fn reap(mut child: Child) {
    let wait = move || {
        privileges::keep_only(privileges::NONE);
        if let Err(error) = child.wait() {
            tracing::debug!(%error, "a keeper's status is lost");
        }
    };
    if let Err(error) = thread::Builder::new().name("ossc-reaper".into()).spawn(wait) {
        tracing::debug!(%error, "a keeper that has ended stays in the list of processes");
    }
}

/// A new keeper that knows nothing yet, with its socket as standard input.
fn spawn(settings: &Settings) -> Result<(OwnedFd, Child), Error> {
    let spawn = || -> io::Result<(OwnedFd, Child)> {
        let (socket, theirs) = rights::pair()?;
        let child = Command::new(OWN_PROGRAM)
            .arg0(NAME)
            .arg(ARGUMENT)
            .args(&settings.arguments)
            // It needs nothing of it, and secrets may be in it.
            .env_clear()
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .spawn()?;
        Ok((socket, child))
    };
    spawn().map_err(Error::Start)
}
