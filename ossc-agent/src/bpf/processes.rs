//! The family tree of processes, from /proc: who is a descendant of a target at the time it becomes one.

use std::collections::BTreeSet;
use std::fs;
use std::io;

/// The process a thread belongs to; the same number when `id` is a process.
pub(super) fn process_of(id: u32) -> io::Result<u32> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let tgid = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    tgid.and_then(|tgid| tgid.trim().parse().ok())
        .ok_or_else(|| io::Error::other(format!("/proc/{id}/status shows no Tgid")))
}

/// Each process with its parent. Processes that come or go meanwhile may be missing.
pub(super) fn parents() -> io::Result<Vec<(u32, u32)>> {
    let entries = fs::read_dir("/proc")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids
        .filter_map(|pid| Some((pid, parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect())
}

/// The parent in a /proc/PID/stat line: `PID (NAME) STATE PPID ...`, where NAME may hold anything, also `)`.
fn parent(stat: &str) -> Option<u32> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(1)?.parse().ok()
}

/// The processes below any of `family` that are not in it.
pub(super) fn descendants(parents: &[(u32, u32)], family: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        for (process, parent) in parents {
            if (family.contains(parent) || found.contains(parent)) && !family.contains(process) {
                found.insert(*process);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_stands_behind_any_name() {
        assert_eq!(parent("12 (cat) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 (a) b) (c) R 7 12"), Some(7));
        assert_eq!(parent("12 (cat"), None);
    }

    #[test]
    fn descendants_are_found_in_any_order() {
        let parents = [(5, 4), (4, 2), (2, 1), (3, 1), (6, 3)];
        let below = |family: &[u32]| descendants(&parents, &family.iter().copied().collect());
        assert_eq!(below(&[2]), BTreeSet::from([4, 5]));
        assert_eq!(below(&[2, 4]), BTreeSet::from([5]));
        assert_eq!(below(&[6]), BTreeSet::new());
    }

    #[test]
    fn a_thread_id_leads_to_its_process() {
        let thread = nix::unistd::gettid().as_raw().unsigned_abs();
        assert_eq!(process_of(thread).unwrap(), std::process::id());
    }
}
