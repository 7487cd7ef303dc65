//! What can end a trace before it has begun, or lose its document. `cli` turns it into an exit status. What a
//! kernel merely does not show is no error but a line of the summary; only one that shows nothing at all is.

use std::io;
use std::path::PathBuf;

use crate::{bpf, sys};

/// A trace that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path to trace cannot be looked at.
    #[error("cannot trace {}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The paths hold nothing to trace.
    #[error("no regular file is at or below the given paths, so there is nothing to trace")]
    NoFiles,
    /// The probes refuse a target or a file, or the kernel refuses the probes.
    #[error(transparent)]
    Probes(#[from] bpf::Error),
    /// Programs are loaded but none could be attached.
    #[error("this kernel lets no eBPF probe see file accesses: {why}")]
    Blind {
        /// What the first probe was refused for, and what to do.
        why: String,
    },
    /// The command cannot be started.
    #[error("cannot start {program}")]
    Command {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The document cannot be written.
    #[error("cannot write the trace to {}", path.display())]
    Output {
        /// The file; `-` for standard output.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The operating system refused something that should always work.
    #[error(transparent)]
    System(#[from] sys::Error),
}

impl Error {
    /// Whether this machine or these privileges give no eBPF.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        match self {
            Self::Probes(error) => error.is_unsupported(),
            Self::Blind { .. } => true,
            Self::Path { .. }
            | Self::NoFiles
            | Self::Command { .. }
            | Self::Output { .. }
            | Self::System(_) => false,
        }
    }

    /// Whether the command line asks for something that is not there.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Path { .. } | Self::NoFiles => true,
            Self::Output { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Probes(error) => !error.is_unsupported(),
            Self::Blind { .. } | Self::Command { .. } | Self::System(_) => false,
        }
    }
}
