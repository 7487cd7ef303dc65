//! Whether somebody else has a file open, by asking the kernel for a lease on it (fcntl(2), `F_SETLEASE`).
//!
//! Driven by `keeper` when no agent is left, and by `store` before it empties a file. The kernel grants a write lease only while no other open file
//! description of the inode exists, and a mapping keeps its description (`check_conflicting_open`,
//! fs/locks.c); the lease is given back at once. Descriptors opened with `O_PATH` do not count. Somebody in the middle
//! of open(2) counts from before the moment in which the kernel asks a fanotify group and settles whether the
//! descriptor is watched (`do_dentry_open`, fs/open.c): where a mark was set before a no, all who come later are watched.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Whether any description other than the one behind `file`, which is open for reading and writing, exists.
pub fn is_open_elsewhere(file: BorrowedFd<'_>) -> io::Result<bool> {
    match set_lease(file, libc::F_WRLCK) {
        Ok(()) => {
            set_lease(file, libc::F_UNLCK)?;
            Ok(false)
        }
        Err(Errno::EAGAIN) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

fn set_lease(file: BorrowedFd<'_>, kind: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the call takes an open descriptor and two numbers, and touches no memory of ours.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::fanotify::{Buffer, Group, Mark, Names};

    #[test]
    fn open_and_mapped_files_are_in_use() {
        for root in ["/var/tmp", "/dev/shm"] {
            let dir = tempfile::tempdir_in(root).unwrap();
            let path = dir.path().join("f");
            let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
            file.set_len(8192).unwrap();
            let elsewhere = || is_open_elsewhere(file.as_fd()).unwrap();
            let second = file.try_clone().unwrap();
            assert!(!elsewhere(), "a duplicate is the same description");
            let reader = File::open(&path).unwrap();
            assert!(elsewhere());
            std::fs::remove_file(&path).unwrap();
            assert!(elsewhere(), "also without a name");
            drop((reader, second));
            assert!(!elsewhere());
        }
    }

    #[test]
    fn who_is_held_in_open_counts_already() {
        for root in ["/var/tmp", "/dev/shm"] {
            let dir = tempfile::tempdir_in(root).unwrap();
            let path = dir.path().join("f");
            let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
            let group = Group::new(Names::Processes).unwrap();
            group.mark(Mark::Open, file.as_fd()).unwrap();
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| File::open(&path).map(drop));
                let mut buffer = Buffer::new();
                let event = loop {
                    match group.read(Mark::Open, 1, &mut buffer) {
                        Ok(mut batch) => break batch.next().unwrap().unwrap(),
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                    }
                    std::thread::yield_now();
                };
                // The event's own descriptor would count as well.
                let number = event.fd.as_raw_fd();
                drop(event);
                let is_open = is_open_elsewhere(file.as_fd());
                group.deny_number(number, Errno::EIO).unwrap();
                assert!(reader.join().unwrap().is_err());
                assert!(is_open.unwrap(), "{root}");
            });
            assert!(!is_open_elsewhere(file.as_fd()).unwrap());
        }
    }
}
