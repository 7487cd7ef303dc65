//! The data files that a keeper holds open: each was opened before any watch existed, so the next agent can
//! read and write through it without tripping the gate.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::stat::fstat;

use crate::store::Inode;
use crate::sys::lease;

/// Which file it is.
pub(super) fn inode_of(fd: &OwnedFd) -> io::Result<Inode> {
    let stat = fstat(fd)?;
    Ok(Inode { dev: stat.st_dev, ino: stat.st_ino })
}

/// The files, each once.
#[derive(Debug, Default)]
pub(super) struct Files(Vec<(Inode, OwnedFd)>);

impl Files {
    /// Adds a file, unless it is there.
    pub(super) fn add(&mut self, fd: OwnedFd) {
        match inode_of(&fd) {
            Ok(inode) => {
                if self.0.iter().all(|(known, _)| *known != inode) {
                    self.0.push((inode, fd));
                }
            }
            Err(error) => tracing::error!(%error, "a file handed to the keeper cannot be examined"),
        }
    }

    /// Forgets one file.
    pub(super) fn release(&mut self, inode: Inode) {
        self.0.retain(|(known, _)| *known != inode);
    }

    /// Forgets those that no other process has open. The agent must have ended.
    pub(super) fn release_unused(&mut self) {
        self.0.retain(|(_, fd)| match lease::is_open_elsewhere(fd.as_fd()) {
            Ok(used) => used,
            Err(error) => {
                tracing::error!(%error, "cannot tell whether a file is in use: taken for used");
                true
            }
        });
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(|(_, fd)| fd.as_fd()).collect()
    }
}
