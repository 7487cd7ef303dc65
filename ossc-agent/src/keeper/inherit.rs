//! What a starting agent does first: asks whether a keeper holds readers of this model directory, and takes
//! what it has. The keeper remains responsible until the agent says so (`Keeper::adopt`); an agent that fails
//! before that changes nothing.
//!
//! Called before anything else opens descriptors: an event is answered by its number, so the numbers that
//! the dead agent's events have must be occupied here before the kernel can give one of them to a new event.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use super::error::Error;
use super::files::inode_of;
use super::place;
use super::record::{Pending, Record, Wanted};
use super::wire::{self, Message, Received};
use crate::store::Inode;
use crate::sys::fanotify::Group;
use crate::sys::{process, rights};

/// A keeper answers at once, or after the moment in which it fails readers.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What a dead agent left with its keeper.
#[derive(Debug)]
pub struct Inherited {
    /// To adopt the keeper by; `None` when it is dead as well and the service manager had copies.
    pub socket: Option<OwnedFd>,
    /// The group that readers are held by.
    pub group: Group,
    /// The record, which goes on.
    pub record: Record,
    /// What keeps the stop gate's programs at work; empty when it had none.
    pub stops: Vec<OwnedFd>,
    /// Data files that were not complete.
    pub files: Vec<(Inode, OwnedFd)>,
    /// Readers that wait for an answer.
    pub pending: Vec<Pending>,
}

/// What a service manager kept for a time without agent and keeper.
#[derive(Debug)]
pub struct Passed {
    /// The group that readers are held by.
    pub group: OwnedFd,
    /// The record of events that have no answer.
    pub record: OwnedFd,
    /// What keeps the stop gate's programs at work; empty when there is none.
    pub stops: Vec<OwnedFd>,
    /// Data files that were not complete.
    pub files: Vec<OwnedFd>,
}

impl Passed {
    /// Moves them out of the way of the numbers by which held readers are answered. To be called before anything else
    /// opens descriptors, which may then have the numbers that these had.
    pub fn out_of_the_way(self) -> io::Result<Self> {
        process::raise_open_files()?;
        let held = Record::open(self.record.try_clone()?)?.peek();
        let above = above(held.iter().map(|(number, ..)| *number));
        let moved = |fd: OwnedFd| process::duplicate_from(fd, above);
        Ok(Self {
            group: moved(self.group)?,
            record: moved(self.record)?,
            stops: self.stops.into_iter().map(moved).collect::<io::Result<_>>()?,
            files: self.files.into_iter().map(moved).collect::<io::Result<_>>()?,
        })
    }

    /// Takes over from them, where no keeper is left.
    fn take_over(self, model_dir: &Path) -> Result<Inherited, Error> {
        let talk = |what| Error::talk(what, model_dir);
        let unanswered = Record::open(self.record.try_clone().map_err(talk("map the record of"))?)
            .map_err(Error::Record)?
            .take_over();
        let pending = occupy_all(&self.record, unanswered);
        let record = Record::open(self.record).map_err(Error::Record)?;
        let mut files = Vec::new();
        for fd in self.files {
            files.push((inode_of(&fd).map_err(talk("examine the files of"))?, fd));
        }
        let (group, stops) = (Group::inherited(self.group), self.stops);
        Ok(Inherited { socket: None, group, record, stops, files, pending })
    }
}

/// What the keeper of this model directory holds, or else what was `passed`; `None` when there is none, or when its agent lives, which
/// the lock of the model directory then tells.
pub fn ask(model_dir: &Path, passed: Option<Passed>) -> Result<Option<Inherited>, Error> {
    let talk = |what| Error::talk(what, model_dir);
    let Some(socket) = place::connect(model_dir).map_err(talk("connect to"))? else {
        return passed.map(|passed| passed.take_over(model_dir)).transpose();
    };
    if let Some(uid) = place::stranger(socket.as_fd()).map_err(talk("examine"))? {
        return Err(Error::Stranger { model_dir: model_dir.to_owned(), uid });
    }
    rights::set_patience(socket.as_fd(), PATIENCE).map_err(talk("set up the connection to"))?;
    process::raise_open_files().map_err(talk("raise the limit of open descriptors for"))?;
    let next = |socket: &OwnedFd| wire::receive(socket.as_fd()).map_err(talk("hear"));
    let unexpected = || Error::Answer { model_dir: model_dir.to_owned() };

    let record = match next(&socket)? {
        Received::Closed => return Ok(None),
        Received::Version(theirs) => {
            return Err(Error::Version { model_dir: model_dir.to_owned(), theirs, ours: wire::VERSION });
        }
        Received::Message(Message::Record, mut fds) => fds.pop().ok_or_else(unexpected)?,
        _ => return Err(unexpected()),
    };
    let unanswered = Record::open(record.try_clone().map_err(talk("map the record of"))?)
        .map_err(|_| unexpected())?
        .take_over();
    // The keeper has the same, and goes on.
    drop(passed);
    let above = above(unanswered.iter().map(|(number, ..)| *number));
    let moved = |fd: OwnedFd| process::duplicate_from(fd, above).map_err(talk("make room for"));
    let (socket, record) = (moved(socket)?, moved(record)?);
    let pending = occupy_all(&record, unanswered);
    let record = Record::open(record).map_err(|_| unexpected())?;
    let (mut files, mut stops) = (Vec::new(), Vec::new());
    loop {
        match next(&socket)? {
            Received::Message(Message::Files, fds) => {
                for fd in fds {
                    files.push((inode_of(&fd).map_err(talk("examine the files of"))?, fd));
                }
            }
            Received::Message(Message::Stops, fds) => stops = fds,
            Received::Message(Message::Group, mut fds) => {
                let group = Group::inherited(fds.pop().ok_or_else(unexpected)?);
                let socket = Some(socket);
                return Ok(Some(Inherited { socket, group, record, stops, files, pending }));
            }
            _ => return Err(unexpected()),
        }
    }
}

/// The lowest number above all of these.
fn above(numbers: impl Iterator<Item = RawFd>) -> RawFd {
    numbers.map(|number| number.saturating_add(1)).max().unwrap_or(0)
}

/// Keeps the numbers of all these events from being used again.
fn occupy_all(any: &OwnedFd, unanswered: Vec<(RawFd, u32, Wanted)>) -> Vec<Pending> {
    let pending = |(number, pid, wanted)| Pending { number, pid, wanted, place: occupy(any, number) };
    unanswered.into_iter().map(pending).collect()
}

/// Puts a descriptor on this very number, if it is free.
fn occupy(any: &OwnedFd, number: RawFd) -> Option<OwnedFd> {
    process::duplicate_from(any, number).ok().filter(|place| place.as_raw_fd() == number)
}
