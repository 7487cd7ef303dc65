//! The socket in the state directory of a model, by which root asks and steers the agent that loads it. The directory is
//! closed to others, and each side looks at the other's user besides, as with the keeper's socket.

use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use crate::store;
use crate::sys::rights;

/// Its name.
const SOCKET: &str = "status";

/// Listens there; called while the model directory is locked, so that whoever had the name before is gone.
pub(super) fn listen(model_dir: &Path) -> io::Result<UnixListener> {
    forget(model_dir)?;
    let dir = store::state_dir(model_dir)?;
    let path = path_in(dir.as_fd());
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to the agent, if there is one.
pub(super) fn connect(model_dir: &Path) -> io::Result<Option<UnixStream>> {
    let connected = store::state_dir(model_dir).and_then(|dir| UnixStream::connect(path_in(dir.as_fd())));
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
    match unlinkat(store::state_dir(model_dir)?, SOCKET, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The other end's user when it is neither root nor our own.
pub(super) fn stranger(socket: &impl AsFd) -> io::Result<Option<u32>> {
    let uid = rights::peer_uid(socket.as_fd())?;
    Ok((uid != 0 && uid != geteuid().as_raw()).then_some(uid))
}

/// By descriptor, so that the length of a path never matters (`sun_path` has 108 bytes).
fn path_in(dir: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())
}
