//! `ossc-agent trace`: shows which bytes of which files the chosen processes touch, in which order, by system
//! call or by page fault. Any files will do; nothing is fetched, held or changed.
//!
//! `cli` calls [`run`]. The eBPF probes hand each access to a [`recorder`], which counts it and merges what
//! belongs together; a loop writes the merged lines in the format asked for, and the summary at the end. What
//! the probes lose or this kernel does not show is said in the summary, never passed over.

mod coalesce;
mod document;
mod error;
mod files;
mod html;
mod json;
mod order;
mod perfetto;
mod picture;
mod ranges;
mod recorder;
mod run;
mod summary;
mod text;
mod threads;
mod top;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use error::Error;
pub use run::run;

use crate::bpf::{Faults, Reads};

/// What to trace and where to put it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Processes that are traced, with all their descendants.
    pub pids: Vec<u32>,
    /// Folders of the cgroup v2 tree whose processes are traced.
    pub cgroups: Vec<PathBuf>,
    /// Program to start and trace; empty = none. Without any target everybody is traced.
    pub command: Vec<OsString>,
    /// Files, and directories whose files are taken with those of all directories below.
    pub paths: Vec<PathBuf>,
    /// How long at most.
    pub duration: Option<Duration>,
    /// Where the document goes instead of standard output.
    pub output: Option<PathBuf>,
    /// Form of the document.
    pub format: Format,
    /// Whether the text is a table that is redrawn, which needs a terminal.
    pub top: bool,
    /// How reads are seen.
    pub reads: Reads,
    /// How page faults are seen.
    pub faults: Faults,
}

/// Form of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Lines for people, as it happens
    #[default]
    Text,
    /// JSON lines (docs/trace-format.md)
    Json,
    /// Chrome trace events, for ui.perfetto.dev
    Perfetto,
    /// A page with a picture of offset against time
    Html,
}

/// How a trace ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A signal, the end of the duration, or nobody who reads the output any more.
    Ended,
    /// The command ended with this status.
    CommandExited(u8),
}
