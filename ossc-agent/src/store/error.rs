//! Everything that can go wrong in the store, in words an operator can act on.
//!
//! Names and paths are printed quoted and escaped, because object keys come from outside. No message
//! repeats its source; callers print the chain.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::names::BadName;
use crate::base::Bytes;

/// Why the store cannot do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object's name cannot be a file below the model directory.
    #[error(
        "object {key:?} cannot be a file below the model directory: {problem}; \
         rename it in OSS or choose an OSS path without it"
    )]
    Name {
        /// The whole key.
        key: String,
        /// What is wrong.
        problem: BadName,
    },
    /// Two objects want the same name, or one is a file where the other needs a directory.
    #[error(
        "objects {first:?} and {second:?} cannot both be laid out: a path is either a file or a directory, \
         and only once; rename one in OSS"
    )]
    Conflict {
        /// Key of one.
        first: String,
        /// Key of the other.
        second: String,
    },
    /// An object has more bytes than a file can have.
    #[error("object {key:?} of {size} bytes is larger than a file can be")]
    TooLarge {
        /// The key.
        key: String,
        /// Its size.
        size: u64,
    },
    /// The file system is not one the store works on.
    #[error(
        "model directory {path:?} is on {found}, which ossc does not support; \
         use a directory on ext4, xfs, btrfs or tmpfs"
    )]
    FileSystem {
        /// The model directory.
        path: PathBuf,
        /// Name of its file system.
        found: &'static str,
    },
    /// The missing bytes do not fit.
    #[error(
        "not enough space for the model in {path:?}: {} more needed, {} free; free some space or use \
         another model directory", Bytes(*need), Bytes(*have)
    )]
    Space {
        /// The model directory.
        path: PathBuf,
        /// Bytes that must be free, reserve included.
        need: u64,
        /// Bytes that are free.
        have: u64,
    },
    /// The file system has too few inodes left.
    #[error(
        "not enough inodes for the model in {path:?}: {need} more needed, {have} free; remove some files or \
         use another model directory"
    )]
    Inodes {
        /// The model directory.
        path: PathBuf,
        /// Inodes that must be free.
        need: u64,
        /// Inodes that are free.
        have: u64,
    },
    /// Another agent has the model directory.
    #[error(
        "model directory {path:?} is in use by another ossc-agent{}; stop it or use another model directory",
        pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
    )]
    Busy {
        /// The model directory.
        path: PathBuf,
        /// The other agent, where it could be read.
        pid: Option<u32>,
    },
    /// Something that the agent did not make has the place of a file or directory of the model.
    #[error(
        "{path:?} is in the way: it is {what} and not made by ossc-agent; move it away or use another model \
         directory"
    )]
    InTheWay {
        /// What is there.
        path: PathBuf,
        /// What kind of thing it is.
        what: &'static str,
    },
    /// The state directory could have been prepared by someone else.
    #[error("state directory {path:?} cannot be trusted: {problem}; remove it and start again")]
    State {
        /// The state directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A ready file says nothing usable, and there is no listing to replace it.
    #[error(
        "ready file {path:?} is damaged, so the model cannot be started offline; start with OSS reachable"
    )]
    Damaged {
        /// The ready file.
        path: PathBuf,
    },
    /// Bytes of the model could not be written.
    #[error("cannot write {path:?} at byte {offset}")]
    Write {
        /// The file, by its visible name.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The disk reported that it lost bytes of a complete file.
    #[error("the disk could not store {path:?}; it is hidden, and will be fetched again at the next start")]
    Lost {
        /// The file, by its visible name.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `seal` before the last block: a mistake of the caller.
    #[error("{path:?} is not complete: {ready} of {blocks} blocks are ready")]
    NotFull {
        /// The file.
        path: PathBuf,
        /// Blocks that are there.
        ready: u32,
        /// Blocks it has.
        blocks: u32,
    },
    /// Any other failed operation.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: names the operation and the file.
    pub(super) fn io<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source: source.into() }
    }

    /// What a reader that waits for the affected bytes should get.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Write { source, .. } | Self::Lost { source, .. } | Self::Io { source, .. } => {
                source.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
            }
            Self::Space { .. } | Self::Inodes { .. } => Errno::ENOSPC,
            _ => Errno::EIO,
        }
    }

    /// Whether the same call may succeed soon without anyone doing something. Interrupted calls are
    /// repeated inside the store, so nothing that comes out is.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        false
    }
}
