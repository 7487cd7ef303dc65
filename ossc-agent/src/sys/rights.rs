//! Unix sockets between an agent and its keeper: whole messages with descriptors attached (unix(7),
//! `SOCK_SEQPACKET` and `SCM_RIGHTS`).
//!
//! Driven by `keeper`, and by `store` for sockets with names. One that listens has a name in a directory given by descriptor, so that the
//! length of a path never matters (`sun_path` has 108 bytes). What a message means, and whom to believe, is
//! the caller's; errors are the kernel's.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    accept4, bind, connect, getsockopt, listen, recvmsg, sendmsg, setsockopt, socket, socketpair, sockopt,
};
use nix::sys::time::TimeVal;

/// Descriptors of one message; the kernel takes at most 253 (`SCM_MAX_FD`).
pub const MOST_DESCRIPTORS: usize = 250;
/// Connections that may wait at once: few are made, and each is taken soon.
const BACKLOG: i32 = 64;

/// What goes over a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whole messages, maybe with descriptors.
    Messages,
    /// Bytes.
    Stream,
}

/// Two connected ends.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// A socket that listens as `name` in the directory `dir`; the name must be free.
pub fn listen_in(dir: BorrowedFd<'_>, name: &str, kind: Kind) -> io::Result<OwnedFd> {
    let socket = new_socket(kind)?;
    bind(socket.as_raw_fd(), &address(dir, name)?)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket)
}

/// Connects to the socket `name` in `dir`: `NotFound` or `ConnectionRefused` when nobody is there.
pub fn connect_in(dir: BorrowedFd<'_>, name: &str, kind: Kind) -> io::Result<OwnedFd> {
    let socket = new_socket(kind)?;
    connect(socket.as_raw_fd(), &address(dir, name)?)?;
    Ok(socket)
}

/// Takes the next connection.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// User of the process at the other end when it connected, or began to listen (`SO_PEERCRED`).
pub fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(getsockopt(&socket, sockopt::PeerCredentials)?.uid())
}

/// Bounds each later send and receive.
pub fn set_patience(socket: BorrowedFd<'_>, patience: Duration) -> io::Result<()> {
    let time = TimeVal::new(i64::try_from(patience.as_secs()).unwrap_or(i64::MAX), 0);
    setsockopt(&socket, sockopt::SendTimeout, &time)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &time)?;
    Ok(())
}

/// Sends one message with duplicates of up to [`MOST_DESCRIPTORS`] descriptors. With `wait` it may block
/// until the other end has room, else it is `WouldBlock` then.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    wait: bool,
) -> io::Result<()> {
    let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = if wait { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT } | MsgFlags::MSG_NOSIGNAL;
    let parts = [IoSlice::new(bytes)];
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &parts, control, flags, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Takes one message into `bytes`: its length, 0 when the other end is closed, and its descriptors.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(bytes)];
    let message = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Ok(message) => break message,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            for number in numbers {
                // SAFETY: the kernel has just installed this descriptor for us, and each is taken once.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
    }
    Ok((message.bytes, descriptors))
}

fn new_socket(kind: Kind) -> io::Result<OwnedFd> {
    let kind = match kind {
        Kind::Messages => SockType::SeqPacket,
        Kind::Stream => SockType::Stream,
    };
    Ok(socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?)
}

/// What is called `name` in `dir`, by a path that is never long.
#[must_use]
pub fn path_in(dir: BorrowedFd<'_>, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())
}

fn address(dir: BorrowedFd<'_>, name: &str) -> io::Result<UnixAddr> {
    Ok(UnixAddr::new(path_in(dir, name).as_str())?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn descriptors_travel_with_their_message() {
        let (one, other) = pair().unwrap();
        let mut files: Vec<_> = (0..MOST_DESCRIPTORS).map(|_| tempfile::tempfile().unwrap()).collect();
        files[1].write_all(b"right").unwrap();
        let given: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        send(one.as_fd(), b"take", &given, true).unwrap();
        send(one.as_fd(), b"end", &[], false).unwrap();
        drop(one);
        let mut bytes = [0; 16];
        let (length, mut taken) = receive(other.as_fd(), &mut bytes).unwrap();
        assert_eq!((&bytes[..length], taken.len()), (&b"take"[..], MOST_DESCRIPTORS));
        let mut file = std::fs::File::from(taken.swap_remove(1));
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "right");
        assert_eq!(receive(other.as_fd(), &mut bytes).unwrap().0, 3);
        assert_eq!(receive(other.as_fd(), &mut bytes).unwrap().0, 0, "the other end is closed");
    }

    #[test]
    fn a_name_of_any_depth_can_be_listened_at() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let dir = std::fs::File::open(&deep).unwrap();
        for kind in [Kind::Messages, Kind::Stream] {
            assert_eq!(connect_in(dir.as_fd(), "s", kind).unwrap_err().kind(), io::ErrorKind::NotFound);
            let listener = listen_in(dir.as_fd(), "s", kind).unwrap();
            let client = connect_in(dir.as_fd(), "s", kind).unwrap();
            let server = accept(listener.as_fd()).unwrap();
            let own = nix::unistd::geteuid().as_raw();
            assert_eq!((peer_uid(client.as_fd()).unwrap(), peer_uid(server.as_fd()).unwrap()), (own, own));
            drop(listener);
            assert_eq!(
                connect_in(dir.as_fd(), "s", kind).unwrap_err().kind(),
                io::ErrorKind::ConnectionRefused
            );
            std::fs::remove_file(deep.join("s")).unwrap();
        }
    }
}
