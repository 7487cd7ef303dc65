//! What the probes can and cannot see on this machine, for the log, `status` and `doctor`.

use std::error::Error;

/// What came of each probe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Kernel names of the tracepoints that have a program, such as `syscalls:sys_exit_openat`.
    pub attached: Vec<String>,
    /// What this machine does not offer.
    pub missing: Vec<Missing>,
}

/// One thing this machine does not offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The probe or kernel feature.
    pub what: String,
    /// Why it is missing, and what to do where something can be done.
    pub why: String,
    /// What the agent does not know because of it.
    pub consequence: &'static str,
}

impl Summary {
    /// Notes that a program runs at `what`.
    pub(super) fn attached(&mut self, what: String) {
        self.attached.push(what);
    }

    /// Notes that `what` is not to be had, and tells the operator.
    pub(super) fn missing(&mut self, what: impl Into<String>, why: String, consequence: &'static str) {
        let what = what.into();
        tracing::warn!(%what, %why, unknown = consequence, "eBPF probe missing");
        self.missing.push(Missing { what, why, consequence });
    }
}

/// An error with all its causes in one line, as a summary shows it.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // aya's transparent errors repeat their source.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}
