//! Where a keeper is found: a socket in the state directory of the model that it keeps. That directory is
//! closed to others, and each side looks at the other's user besides.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use crate::store;
use crate::sys::rights;

/// Name of the socket.
const SOCKET: &str = "keeper";

/// Listens there; called while holding the lock of the model directory, so that whoever had the name before
/// is gone.
pub(super) fn listen(model_dir: &Path) -> io::Result<OwnedFd> {
    let dir = store::state_dir(model_dir)?;
    remove(&dir)?;
    rights::listen_in(dir.as_fd(), SOCKET)
}

/// Connects to the keeper, if there is one.
pub(super) fn connect(model_dir: &Path) -> io::Result<Option<OwnedFd>> {
    let connected = store::state_dir(model_dir).and_then(|dir| rights::connect_in(dir.as_fd(), SOCKET));
    match connected {
        Ok(socket) => Ok(Some(socket)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Takes the name away; fine if it is not there.
pub(super) fn forget(model_dir: &Path) -> io::Result<()> {
    remove(&store::state_dir(model_dir)?)
}

fn remove(dir: &File) -> io::Result<()> {
    match unlinkat(dir, SOCKET, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The other end's user when it is neither root nor our own.
pub(super) fn stranger(socket: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let uid = rights::peer_uid(socket)?;
    Ok((uid != 0 && uid != geteuid().as_raw()).then_some(uid))
}
