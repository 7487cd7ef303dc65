//! Whether the kernel lets eBPF programs read its memory, which all of ours need (kernel_lockdown(7)).
//!
//! Asked before anything is loaded, since a program that is refused for it costs a page of the verifier's log and no
//! hint at the reason. `doctor` shows the mode.

use std::fs;

/// Made by the kernel's lockdown module; absent without it, or where securityfs is not mounted.
const PATH: &str = "/sys/kernel/security/lockdown";

/// What a kernel that is locked down lets programs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lockdown {
    /// There is none, or none that can be seen.
    Unknown,
    /// Kernel memory can be read: mode `none` or `integrity`.
    Readable,
    /// Mode `confidentiality`: `bpf_probe_read_kernel` is refused (`bpf_tracing_func_proto` in
    /// kernel/trace/bpf_trace.c).
    Confidentiality,
}

impl Lockdown {
    /// The mode in force.
    #[must_use]
    pub fn read() -> Self {
        Self::parse(&fs::read_to_string(PATH).unwrap_or_default())
    }

    /// All modes stand in the file, the one in force in brackets.
    fn parse(text: &str) -> Self {
        match text.split_once('[').and_then(|(_, rest)| rest.split_once(']')) {
            Some(("confidentiality", _)) => Self::Confidentiality,
            Some(_) => Self::Readable,
            None => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_in_brackets_counts() {
        for (text, mode) in [
            ("[none] integrity confidentiality\n", Lockdown::Readable),
            ("none [integrity] confidentiality\n", Lockdown::Readable),
            ("none integrity [confidentiality]\n", Lockdown::Confidentiality),
            ("", Lockdown::Unknown),
            ("[", Lockdown::Unknown),
        ] {
            assert_eq!(Lockdown::parse(text), mode, "{text}");
        }
    }
}
