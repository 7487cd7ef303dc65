//! What keeps the stop gate's programs from working. The gate then chooses another mode, or does without.

use std::io;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

/// Why processes cannot be stopped at their mappings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel takes no BPF from this process.
    #[error(
        "cannot load the stop gate's eBPF programs; they need Linux 5.10 and CAP_BPF with CAP_PERFMON, or root"
    )]
    Load(#[source] EbpfError),
    /// Programs see the ids of the first pid namespace.
    #[error("processes cannot be stopped from a pid namespace of the agent's own; run it in the host's")]
    PidNamespace,
    /// A process that could be stopped but not continued would stay so.
    #[error("stopping processes needs CAP_BPF, CAP_KILL and CAP_SYS_PTRACE")]
    Privileges,
    /// The structures of this kernel are not known.
    #[error("{0}")]
    Layout(String),
    /// The compiled object and this agent disagree.
    #[error("the stop gate's eBPF object has no {name}; it was built from other sources than the agent")]
    Missing {
        /// The map or program.
        name: &'static str,
    },
    /// A program the kernel does not take.
    #[error("the kernel refuses the program {name}")]
    Program {
        /// The program.
        name: &'static str,
        /// What the kernel says.
        source: ProgramError,
    },
    /// They have left the kernel, since every file was complete.
    #[error("the stop gate's programs are no longer attached; start the agent again to bring them back")]
    Detached,
    /// A place in the kernel that is not there.
    #[error("cannot attach to the tracepoint {at}; the kernel needs CONFIG_FTRACE_SYSCALLS")]
    Attach {
        /// The tracepoint.
        at: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// A map operation.
    #[error("a map of the stop gate cannot be used; too many files or processes at once?")]
    Map(#[from] MapError),
    /// The inode of a file.
    #[error("cannot tell the inode of a file to gate it")]
    Identify(#[source] io::Error),
    /// The trial mapping.
    #[error("cannot map a scratch file to try out the programs")]
    Trial(#[source] io::Error),
    /// Copies of what keeps the programs at work.
    #[error("cannot duplicate the descriptors of the stop gate's programs")]
    Duplicate(#[source] io::Error),
    /// Programs of another agent.
    #[error("the programs of the agent that died are of version {version}, not this one's")]
    Version {
        /// Theirs.
        version: u32,
    },
    /// The programs do not see what they must.
    #[error("the programs do not see mappings on this file system")]
    Blind,
}
