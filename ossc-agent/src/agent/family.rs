//! Whether a reader that the gate saw is one to learn from: a process that was named, or below one, or in a
//! cgroup that was named. The probes filter in the kernel; the gate sees every reader, and another program's reads
//! would spoil the order. Asked on the gate's thread, which looks into /proc once for each process.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::config::Targets;
use crate::sys;

/// Most generations looked up; a process tree this deep is a loop of pids used again.
const MAX_DEPTH: usize = 64;
/// Processes remembered; a node that starts more during a load asks for some again.
const MAX_KNOWN: usize = 4096;
/// Where the cgroup v2 tree is mounted on every distribution (file-hierarchy(7)).
const CGROUPS: &str = "/sys/fs/cgroup";

/// The processes of a load's target, or everybody.
pub(super) struct Family {
    everybody: bool,
    cgroups: Vec<PathBuf>,
    /// Processes and whether they belong to it.
    known: Mutex<HashMap<u32, bool>>,
}

impl Family {
    /// The family of these targets; of a command too where `everybody` is false and none is named.
    pub(super) fn new(targets: &Targets, everybody: bool) -> Self {
        let canonical = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        Self {
            everybody,
            cgroups: targets.cgroups.iter().map(canonical).collect(),
            known: Mutex::new(targets.pids.iter().map(|pid| (*pid, true)).collect()),
        }
    }

    /// This process and its descendants belong to it.
    pub(super) fn add(&self, pid: u32) {
        self.with(|known| known.insert(pid, true));
    }

    /// Whether a process belongs to it. The process is held or running, so /proc knows it.
    pub(super) fn contains(&self, pid: u32) -> bool {
        self.everybody || self.with(|known| self.look_up(known, pid))
    }

    fn look_up(&self, known: &mut HashMap<u32, bool>, pid: u32) -> bool {
        let mut path = Vec::new();
        let mut at = pid;
        let belongs = loop {
            if let Some(belongs) = known.get(&at) {
                break *belongs;
            }
            path.push(at);
            match sys::process::parent(at) {
                _ if self.is_in_cgroup(at) => break true,
                Ok(parent) if parent != 0 && path.len() < MAX_DEPTH => at = parent,
                _ => break false,
            }
        };
        // The named ones are asked for at every step and must stay.
        if known.len() > MAX_KNOWN {
            known.retain(|_, belongs| *belongs);
        }
        if belongs {
            known.insert(pid, true);
        } else {
            known.extend(path.into_iter().map(|pid| (pid, false)));
        }
        belongs
    }

    /// By the line `0::/path` of /proc/PID/cgroup (cgroups(7)).
    fn is_in_cgroup(&self, pid: u32) -> bool {
        if self.cgroups.is_empty() {
            return false;
        }
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
        let path = path.map(|path| Path::new(CGROUPS).join(path));
        path.is_some_and(|path| self.cgroups.iter().any(|cgroup| path.starts_with(cgroup)))
    }

    /// A panic of another holder leaves a map that at worst lacks an entry.
    fn with<R>(&self, look: impl FnOnce(&mut HashMap<u32, bool>) -> R) -> R {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A child that ends when its standard input is closed.
    struct Sitting(Child);

    impl Sitting {
        fn start() -> Self {
            let pipe = Stdio::piped;
            Self(Command::new("cat").stdin(pipe()).stdout(pipe()).spawn().unwrap())
        }
    }

    impl Drop for Sitting {
        fn drop(&mut self) {
            drop(self.0.stdin.take());
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn descendants_of_the_named_belong_to_it_and_others_do_not() {
        let (one, other) = (Sitting::start(), Sitting::start());
        let own = std::process::id();
        let family = Family::new(&Targets::default(), false);
        family.add(one.0.id());
        let belongs = |family: &Family| [one.0.id(), other.0.id(), own, 1].map(|pid| family.contains(pid));
        assert_eq!(belongs(&family), [true, false, false, false]);
        assert_eq!(belongs(&family), [true, false, false, false], "what is remembered says the same");
        let family = Family::new(&Targets { pids: vec![own], cgroups: vec![] }, false);
        assert_eq!(belongs(&family), [true, true, true, false]);
        assert_eq!(belongs(&Family::new(&Targets::default(), true)), [true; 4]);
    }

    #[test]
    fn processes_of_the_named_cgroups_belong_to_it() {
        let below = |path: &str| Family::new(&Targets { pids: vec![], cgroups: vec![path.into()] }, false);
        let own = std::process::id();
        assert!(below(CGROUPS).contains(own));
        assert!(!below("/sys/fs/cgroup/of/nobody").contains(own));
    }
}
