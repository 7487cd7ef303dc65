//! What can keep the gate from opening. Everything here is found before a file becomes visible, so no
//! reader is touched by it; failures of single readers are answers, not errors.

use std::io;
use std::path::PathBuf;

/// Why readers cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `fanotify_init` said EPERM.
    #[error("holding readers needs the capability CAP_SYS_ADMIN: run as root, or grant it to the service")]
    NotPrivileged,
    /// `fanotify_init` said ENOSYS or EINVAL.
    #[error(
        "this kernel cannot hold readers: it needs CONFIG_FANOTIFY and CONFIG_FANOTIFY_ACCESS_PERMISSIONS"
    )]
    NotInKernel(#[source] io::Error),
    /// Another refusal of `fanotify_init`, such as too many groups of this user (EMFILE).
    #[error("cannot make a fanotify group")]
    Group(#[source] io::Error),
    /// Neither kind of mark is taken there.
    #[error(
        "the file system of {dir} takes neither FAN_PRE_ACCESS nor FAN_OPEN_PERM marks: \
         put the model on ext4, xfs, btrfs or tmpfs"
    )]
    FileSystem {
        /// Where it was tried.
        dir: PathBuf,
        /// What the last try gave.
        source: io::Error,
    },
    /// The scratch file of the probe could not be made or mapped.
    #[error("cannot try out the gate with a scratch file (O_TMPFILE) in {dir}")]
    Scratch {
        /// Where.
        dir: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// A model file could not be marked; it must not become visible.
    #[error("cannot put a gate on {path}")]
    Mark {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A model file could not be gated by the programs; it must not become visible.
    #[error("cannot have who maps {path} stopped")]
    Programs {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: Box<crate::bpf::stop::Error>,
    },
    /// What an agent that died left cannot be used.
    #[error("cannot go on with the stop gate's programs of the agent that died")]
    Inherited(#[source] Box<crate::bpf::stop::Error>),
    /// The programs of a group that names threads are gone, and new ones do not work.
    #[error("readers are held by a stop gate whose programs are gone, and it cannot be set up again: {0}")]
    Programless(String),
    /// Each held reader costs a descriptor.
    #[error(
        "the limit of {limit} open files leaves too few for held readers ({open} are open): \
         raise LimitNOFILE or ulimit -n"
    )]
    Descriptors {
        /// `RLIMIT_NOFILE`, hard.
        limit: u64,
        /// Open now.
        open: usize,
    },
    /// The thread of the gate, its wake-up descriptor, or the process limits.
    #[error("cannot start the gate's thread")]
    Start(#[source] io::Error),
}
