//! A socket in the state directory of a model, by which root's other processes reach the one that works there. That
//! directory is closed to others, and each side looks at the other's user besides.
//!
//! Driven by `keeper` and `status`, each with a name of its own; what is said over it is theirs.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::state_dir;
use crate::sys::rights::{self, Kind};

/// One socket of each model directory.
#[derive(Debug, Clone, Copy)]
pub struct Door {
    name: &'static str,
    kind: Kind,
}

/// Who is behind a door.
#[derive(Debug)]
pub enum Reached {
    /// Somebody, at the other end of this.
    Somebody(OwnedFd),
    /// Nobody.
    Nobody,
    /// Nobody any more: whoever listened has died.
    Dead,
}

impl Door {
    /// For whole messages.
    #[must_use]
    pub const fn of_messages(name: &'static str) -> Self {
        Self { name, kind: Kind::Messages }
    }

    /// For a stream of bytes.
    #[must_use]
    pub const fn of_stream(name: &'static str) -> Self {
        Self { name, kind: Kind::Stream }
    }

    /// Listens there; called while holding the lock of the model directory, so that whoever had the name before is gone.
    pub fn listen(self, model_dir: &Path) -> io::Result<OwnedFd> {
        let dir = state_dir(model_dir)?;
        self.remove(dir.as_fd())?;
        let listener = rights::listen_in(dir.as_fd(), self.name, self.kind)?;
        fs::set_permissions(rights::path_in(dir.as_fd(), self.name), Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    /// Connects to whoever listens there.
    pub fn connect(self, model_dir: &Path) -> io::Result<Reached> {
        let connect = |dir: fs::File| rights::connect_in(dir.as_fd(), self.name, self.kind);
        match state_dir(model_dir).and_then(connect) {
            Ok(socket) => Ok(Reached::Somebody(socket)),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(Reached::Nobody),
                io::ErrorKind::ConnectionRefused => Ok(Reached::Dead),
                _ => Err(error),
            },
        }
    }

    /// Takes the name away; fine if it is not there.
    pub fn forget(self, model_dir: &Path) -> io::Result<()> {
        self.remove(state_dir(model_dir)?.as_fd())
    }

    fn remove(self, dir: BorrowedFd<'_>) -> io::Result<()> {
        match unlinkat(dir, self.name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The user at the other end when it is neither root nor our own.
pub fn stranger(socket: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let uid = rights::peer_uid(socket)?;
    Ok((uid != 0 && uid != geteuid().as_raw()).then_some(uid))
}
