//! Who the readers are: the name of each thread and of its process, looked up when its first access is seen,
//! for it may have ended when its name is wanted.

use std::collections::BTreeMap;
use std::fs;

/// A thread that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thread {
    pub(super) pid: u32,
    pub(super) tid: u32,
    /// Name of the process, as ps(1) shows it; empty when it had ended already.
    pub(super) process: String,
    /// Name of the thread itself.
    pub(super) name: String,
}

/// The threads seen, by thread id. An id that the kernel gives out again stands for the first who had it.
pub(super) type Threads = BTreeMap<u32, Thread>;

/// Looks a thread up in /proc.
pub(super) fn look_up(pid: u32, tid: u32) -> Thread {
    let read = |path: String| fs::read_to_string(path).unwrap_or_default().trim_end().to_owned();
    Thread {
        pid,
        tid,
        process: read(format!("/proc/{pid}/comm")),
        name: read(format!("/proc/{pid}/task/{tid}/comm")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_thread_has_names_and_a_dead_one_none() {
        let own = std::process::id();
        let found = look_up(own, own);
        assert!(!found.process.is_empty() && !found.name.is_empty());
        assert_eq!(look_up(u32::MAX, u32::MAX).process, "");
    }
}
