//! What a kernel check says of the machine it ran on: one JSON object a line.
//!
//! Written by `ossc-kernel-check`, read by `cargo xtask vm`, which includes this file and knows what each kernel
//! should show. Only facts stand here; whether they are what was expected is not decided by who saw them.

use serde::{Deserialize, Serialize};

/// The checks that are not made on each file system.
pub(crate) const DOCTOR: &str = "doctor";
pub(crate) const LOCKED_DOWN: &str = "doctor and load under lockdown";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "check", rename_all = "kebab-case")]
pub(crate) enum Line {
    /// The kernel itself; the first line.
    Kernel {
        /// As its authors number it, not the distribution: `6.1.192`.
        version: String,
        /// Whether it is locked down in the end.
        locks_down: bool,
    },
    /// Which eBPF probes the agent missed, by its own log and by the trace's summary.
    Probes(Probes),
    /// A reader of a known pattern under `ossc-agent trace`.
    Trace(Trace),
    /// A load while readers of all kinds come.
    Readers(Readers),
    /// A reader of an object that can never be had, beside a reader of one that can.
    Denied(Denied),
    /// A reader that waited when the agent was killed got its bytes from the next one.
    TakenOver(TakenOver),
    /// `ossc-agent doctor` with the model on ext4.
    Doctor(Doctor),
    /// A check that could not be carried out.
    Broken {
        /// Its name, with the file system.
        name: String,
        /// Why, with all causes.
        error: String,
    },
    /// All checks were run; the last line.
    End {
        /// Milliseconds since the first line.
        ms: u64,
    },
}

/// Which eBPF probes the agent missed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Probes {
    /// Where the model was.
    pub(crate) file_system: String,
    /// How many the agent attached at its start.
    pub(crate) attached: u64,
    /// What it named as missing, in order of names.
    pub(crate) missing: Vec<String>,
}

/// What the trace said of a reader of a known pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trace {
    /// Where the file was.
    pub(crate) file_system: String,
    /// Name of the pattern.
    pub(crate) pattern: String,
    /// How well it was seen.
    pub(crate) seen: Seen,
    /// What was wrong with it; empty unless something was.
    pub(crate) detail: String,
}

/// How well the trace saw what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Seen {
    /// To the byte.
    Exact,
    /// Rounded outwards to pages.
    Pages,
    /// The pages that the kernel maps around a fault.
    Windows,
    /// Nothing at all.
    Nothing,
    /// Something else than what was read.
    Wrong,
}

/// What the readers of a load saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Readers {
    /// Where the model was.
    pub(crate) file_system: String,
    /// The way of holding readers that the agent chose.
    pub(crate) gate: String,
    /// Kinds of readers that came.
    pub(crate) kinds: Vec<String>,
    /// Kinds that did not, since this kernel refuses them on a plain file of this file system.
    pub(crate) refused: Vec<String>,
    /// How many readers came.
    pub(crate) readers: usize,
    /// How often the agent held one.
    pub(crate) held: usize,
    /// What those said that saw anything but right bytes.
    pub(crate) not_right: Vec<String>,
    /// Milliseconds that the load took.
    pub(crate) ms: u64,
}

/// What a reader got in the place of bytes that can never be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Denied {
    /// Where the file was.
    pub(crate) file_system: String,
    /// Name of the errno.
    pub(crate) errno: String,
}

/// An agent was killed and another one went on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TakenOver {
    /// Where the file was.
    pub(crate) file_system: String,
}

/// What the doctor said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Doctor {
    /// Whether the kernel was locked down before.
    pub(crate) locked_down: bool,
    /// What it saw of the gate.
    pub(crate) gate: String,
    /// Its verdict on lockdown.
    pub(crate) lockdown: String,
    /// Its verdict on eBPF.
    pub(crate) ebpf: String,
    /// The checks that failed.
    pub(crate) failed: Vec<String>,
    /// Those that it warns of.
    pub(crate) warned: Vec<String>,
}
