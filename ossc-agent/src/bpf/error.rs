//! What can go wrong with the probes. Everything a kernel may merely lack is not here but in
//! [`Summary`](super::Summary): the agent works without it.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;

use crate::base::FileId;

/// A failure to set up the probes or to change what they watch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel takes no BPF from this process.
    #[error("cannot load the eBPF programs; they need Linux 5.8 and CAP_BPF with CAP_PERFMON, or root")]
    Load(#[source] EbpfError),
    /// Programs may not read the kernel's memory.
    #[error(
        "the kernel is locked down for confidentiality, which forbids eBPF programs to read its memory \
         (kernel_lockdown(7)); boot with lockdown=integrity to observe readers"
    )]
    LockedDown,
    /// The compiled object and this agent disagree about a map.
    #[error("the eBPF object has no usable map {name}; it was built from other sources than the agent")]
    Map {
        /// The map.
        name: &'static str,
        /// What aya says about it; absent when there is no map of that name.
        source: Option<MapError>,
    },
    /// A cgroup that is not there.
    #[error("cannot open cgroup {}", path.display())]
    NoCgroup {
        /// As configured.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder that is no cgroup the programs can test for.
    #[error("cannot watch cgroup {}; it must be a folder of the cgroup v2 tree", path.display())]
    Cgroup {
        /// As configured.
        path: PathBuf,
        /// What the kernel says.
        source: MapError,
    },
    /// More cgroups than the programs look at.
    #[error("{given} cgroups are named as targets; the programs look at no more than {max}")]
    TooManyCgroups {
        /// How many were configured.
        given: usize,
        /// How many are allowed.
        max: u32,
    },
    /// A pid that cannot be a target.
    #[error("cannot watch process {pid}; is it running, and is this its number on the host?")]
    Process {
        /// The process.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// A pid that means something else to the kernel's programs.
    #[error(
        "cannot watch process {pid}: the agent runs in a pid namespace of its own, where that number means another \
         process than to the kernel; run it in the host's (hostPID, --pid=host), or name a cgroup"
    )]
    PidNamespace {
        /// The process.
        pid: u32,
    },
    /// The target map is full.
    #[error("cannot watch process {pid}; too many processes are watched already")]
    TargetsFull {
        /// The process.
        pid: u32,
        /// What the kernel says.
        source: MapError,
    },
    /// The inode of a file to watch cannot be told.
    #[error("cannot tell the inode of file {} to watch it", file.0)]
    Identify {
        /// The file.
        file: FileId,
        /// Why.
        source: io::Error,
    },
    /// The map of watched files is full.
    #[error("cannot watch file {}; too many files are watched already", file.0)]
    Watch {
        /// The file.
        file: FileId,
        /// What the kernel says.
        source: MapError,
    },
    /// The thread that reads the ring buffer.
    #[error("cannot start the thread that reads what the eBPF programs saw")]
    Consumer(#[source] io::Error),
}

impl Error {
    /// Whether the machine, not the configuration, is the cause: the agent can go on without probes.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        match self {
            Self::Load(_) | Self::LockedDown | Self::Map { .. } | Self::Consumer(_) => true,
            Self::NoCgroup { .. }
            | Self::Cgroup { .. }
            | Self::TooManyCgroups { .. }
            | Self::Process { .. }
            | Self::PidNamespace { .. }
            | Self::TargetsFull { .. }
            | Self::Identify { .. }
            | Self::Watch { .. } => false,
        }
    }
}
