//! What a starting agent does first: asks whether a keeper holds readers of this model directory, and takes
//! what it has. The keeper remains responsible until the agent says so (`Keeper::adopt`); an agent that fails
//! before that changes nothing.
//!
//! Called before anything else opens descriptors: an event is answered by its number, so the numbers that
//! the dead agent's events have must be occupied here before the kernel can give one of them to a new event.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use super::error::Error;
use super::files::inode_of;
use super::place;
use super::record::{Pending, Record};
use super::wire::{self, Message, Received};
use crate::store::Inode;
use crate::sys::fanotify::Group;
use crate::sys::{process, rights};

/// A keeper answers at once, or after the moment in which it fails readers.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What a dead agent left with its keeper.
#[derive(Debug)]
pub struct Inherited {
    /// To adopt the keeper by.
    pub socket: OwnedFd,
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

/// What the keeper of this model directory holds; `None` when there is none, or when its agent lives, which
/// the lock of the model directory then tells.
pub fn ask(model_dir: &Path) -> Result<Option<Inherited>, Error> {
    let talk = |what| Error::talk(what, model_dir);
    let Some(socket) = place::connect(model_dir).map_err(talk("connect to"))? else { return Ok(None) };
    if let Some(uid) = place::stranger(socket.as_fd()).map_err(talk("examine"))? {
        return Err(Error::Stranger { model_dir: model_dir.to_owned(), uid });
    }
    rights::set_patience(socket.as_fd(), PATIENCE).map_err(talk("set up the connection to"))?;
    process::raise_open_files().map_err(talk("raise the limit of open descriptors for"))?;
    let next = |socket: &OwnedFd| wire::receive(socket.as_fd()).map_err(talk("hear"));
    let unexpected = || Error::Answer { model_dir: model_dir.to_owned() };

    let record = match next(&socket)? {
        Received::Closed => return Ok(None),
        Received::Message(Message::Record, mut fds) => fds.pop().ok_or_else(unexpected)?,
        _ => return Err(unexpected()),
    };
    let unanswered = Record::open(record.try_clone().map_err(talk("map the record of"))?)
        .map_err(|_| unexpected())?
        .take_over();
    let above = unanswered.iter().map(|(number, ..)| number.saturating_add(1)).max().unwrap_or(0);
    let moved = |fd: OwnedFd| process::duplicate_from(fd, above).map_err(talk("make room for"));
    let (socket, record) = (moved(socket)?, moved(record)?);
    let pending = unanswered
        .into_iter()
        .map(|(number, pid, wanted)| Pending { number, pid, wanted, place: occupy(&record, number) })
        .collect();
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
                return Ok(Some(Inherited { socket, group, record, stops, files, pending }));
            }
            _ => return Err(unexpected()),
        }
    }
}

/// Puts a descriptor on this very number, if it is free.
fn occupy(any: &OwnedFd, number: RawFd) -> Option<OwnedFd> {
    process::duplicate_from(any, number).ok().filter(|place| place.as_raw_fd() == number)
}
