//! One touch of a model file by a reader, whoever saw it: the gate (held calls) and the eBPF probes both
//! yield this, so that neither knows who records it.

use super::{ByteRange, FileId};

/// How the reader touched the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// open(2) and its kin.
    Open,
    /// mmap(2).
    Map,
    /// mremap(2), with the range that is mapped behind it.
    Remap,
    /// munmap(2), or another mapping over this one.
    Unmap,
    /// A read system call.
    Read,
    /// A page fault on a mapping.
    Fault,
}

/// One access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The file.
    pub file: FileId,
    /// Which bytes; the whole file where the source cannot tell.
    pub range: ByteRange,
    /// How.
    pub kind: AccessKind,
    /// Thread group id of the reader, as the agent's pid namespace numbers it.
    pub pid: u32,
    /// Thread id of the reader.
    pub tid: u32,
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub at_ns: u64,
}
