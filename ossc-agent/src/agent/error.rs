//! What can end a run before its time. `cli` turns it into an exit status.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::{config, fetch, gate, keeper, oss, peer, store, sys};

/// A run that failed; the part's own error says what, why and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Command line, environment or configuration file.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// OSS refused or cannot be reached.
    #[error(transparent)]
    Oss(#[from] oss::Error),
    /// The model directory cannot take the files.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A file that cannot be vouched for.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// An offline start needs complete files.
    #[error(
        "{incomplete} of the {files} files in {} are not complete, so an offline start would leave readers \
         waiting; start without --offline", model_dir.display()
    )]
    Incomplete {
        /// Files that are not complete.
        incomplete: usize,
        /// All files on record.
        files: usize,
        /// Model directory.
        model_dir: PathBuf,
    },
    /// An offline start needs an earlier load.
    #[error(
        "{} has no files of this model from an earlier load, so there is nothing to start offline with; \
         start without --offline", model_dir.display()
    )]
    NothingRecorded {
        /// Model directory.
        model_dir: PathBuf,
    },
    /// One descriptor a file is needed.
    #[error(
        "the model has {files} files but this process may open only {limit} descriptors; raise the limit \
         (ulimit -n, or LimitNOFILE= in the unit)"
    )]
    TooManyFiles {
        /// Files of the model.
        files: usize,
        /// RLIMIT_NOFILE.
        limit: u64,
    },
    /// Readers cannot be held.
    #[error(transparent)]
    Gate(#[from] gate::Error),
    /// Nothing would hold readers if this process died.
    #[error(transparent)]
    Keeper(#[from] keeper::Error),
    /// The workers cannot be started.
    #[error(transparent)]
    Fetch(#[from] fetch::StartError),
    /// Blocks cannot be shared with peers.
    #[error(transparent)]
    Peer(#[from] peer::Error),
    /// The command cannot be started.
    #[error("cannot start {program}")]
    Command {
        /// The program.
        program: String,
        /// Cause.
        source: io::Error,
    },
    /// The log file cannot be opened.
    #[error("cannot append to the log file {}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The audit log cannot be opened.
    #[error("cannot append to the audit log {}", path.display())]
    Audit {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The state of the load cannot be served there.
    #[error("cannot listen on {address} for --http; give another address or port")]
    Http {
        /// The address.
        address: SocketAddr,
        /// Cause.
        source: io::Error,
    },
    /// The state directory cannot be used.
    #[error("cannot use the state directory {}; give another one with --state-dir", path.display())]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The operating system refused something that should always work.
    #[error(transparent)]
    System(#[from] sys::Error),
}

/// A file that a manifest cannot be made of.
#[derive(Debug, thiserror::Error)]
#[error("no manifest can be made: {name}: {why}")]
pub struct ManifestError {
    /// Its name below the model directory.
    pub name: String,
    /// Why.
    pub why: String,
}
