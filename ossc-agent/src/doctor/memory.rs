//! Memory against the model: the page cache is where readers find it, and the page cache is charged to the
//! agent's cgroup, which fills it.

use std::fs;
use std::path::{Path, PathBuf};

use super::report::Check;
use crate::base::{Bytes, Object};

/// A cgroup v1 limit from here on is none: the kernel's PAGE_COUNTER_MAX is near 2^63.
const NO_LIMIT: u64 = 1 << 60;
/// A dirty limit that a disk of 1 GB/s writes out in a few seconds.
const GOOD_DIRTY_BYTES: u64 = 1 << 30;

/// Without a listing only what memory there is.
pub(super) fn checks(objects: Option<&[Object]>) -> Vec<Check> {
    let model: Option<u64> = objects.map(|objects| objects.iter().map(|object| object.size).sum());
    let table = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let mut checks = Vec::new();
    if let Some(available) = field(&table, "MemAvailable:") {
        checks.push(available_memory(available, model));
        checks.push(dirty_limit(available, model));
    }
    checks.push(cgroup_limit(limit_of_own_cgroup(), model));
    checks
}

/// A field of /proc/meminfo in bytes (proc_meminfo(5) counts in KiB).
fn field(table: &str, name: &str) -> Option<u64> {
    let rest = table.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn available_memory(available: u64, model: Option<u64>) -> Check {
    match model {
        Some(model) if available < model => Check::warn(
            "memory",
            format!("{} available for a model of {}", Bytes(available), Bytes(model)),
            "what does not stay in the page cache is read from the disk again; take a larger instance, or \
             expect the disk's speed",
        ),
        Some(model) => {
            Check::ok("memory", format!("{} available for a model of {}", Bytes(available), Bytes(model)))
        }
        None => Check::ok("memory", format!("{} available", Bytes(available))),
    }
}

/// Beyond vm.dirty_ratio (or vm.dirty_bytes) writers wait for the disk (Documentation/admin-guide/sysctl/vm.rst).
fn dirty_limit(available: u64, model: Option<u64>) -> Check {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/vm/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let limit = match read("dirty_bytes") {
        Some(bytes) if bytes > 0 => bytes,
        _ => available / 100 * read("dirty_ratio").unwrap_or(20),
    };
    let seen = format!("{} may wait to be written to disk", Bytes(limit));
    if model.is_some_and(|model| model > limit) && limit < GOOD_DIRTY_BYTES {
        return Check::warn(
            "dirty limit",
            seen,
            "raise vm.dirty_bytes: a disk slower than the network will hold up the load",
        );
    }
    Check::ok("dirty limit", seen)
}

fn cgroup_limit(limit: Option<(PathBuf, u64)>, model: Option<u64>) -> Check {
    match (limit, model) {
        (Some((file, limit)), Some(model)) if limit < model => Check::warn(
            "memory of the cgroup",
            format!("{} has {}, the model {}", file.display(), Bytes(limit), Bytes(model)),
            "raise MemoryMax= (or the limit of the pod): the page cache is charged to whoever fills it, which \
             is the agent",
        ),
        (Some((file, limit)), _) => {
            Check::ok("memory of the cgroup", format!("{} in {}", Bytes(limit), file.display()))
        }
        (None, _) => Check::ok("memory of the cgroup", "not limited"),
    }
}

/// The least limit of the cgroups this process is in, v1 and v2, with the file that sets it.
fn limit_of_own_cgroup() -> Option<(PathBuf, u64)> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    limit_files(&membership, &mounts)
        .into_iter()
        .filter_map(|file| {
            let limit = fs::read_to_string(&file).ok()?.trim().parse::<u64>().ok()?;
            (limit < NO_LIMIT).then_some((file, limit))
        })
        .min_by_key(|(_, limit)| *limit)
}

/// The files that may limit a process of this /proc/PID/cgroup, from its own cgroup up (cgroups(7)).
fn limit_files(membership: &str, mounts: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (kind, file) = match controllers {
            "" => ("cgroup2", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => ("cgroup", "memory.limit_in_bytes"),
            _ => continue,
        };
        let Some(root) = mount_of(mounts, kind) else { continue };
        let own = root.join(path.trim_start_matches('/'));
        let up = own.ancestors().take_while(|dir| dir.starts_with(&root)).map(|dir| dir.join(file));
        files.extend(up);
    }
    files
}

/// Where the tree of this kind is mounted; of v1, the one with the memory controller.
fn mount_of(mounts: &str, kind: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, found, options) = (words.next()?, words.next()?, words.next()?);
        let fits = kind == "cgroup2" || options.split(',').any(|option| option == "memory");
        (found == kind && fits).then(|| Path::new(place).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn finds_the_files_that_may_limit_us() {
        let membership = "5:memory:/pods/a\n1:name=systemd:/x\n0::/unit.service\n";
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let files: Vec<_> = limit_files(membership, mounts).iter().map(|f| f.display().to_string()).collect();
        assert_eq!(
            files,
            [
                "/sys/fs/cgroup/memory/pods/a/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/pods/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/unified/unit.service/memory.max",
                "/sys/fs/cgroup/unified/memory.max",
            ]
        );
        assert_eq!(limit_files("garbage\n", mounts), Vec::<PathBuf>::new());
    }

    #[test]
    fn less_memory_than_model_is_worth_a_word() {
        assert_eq!(field("MemAvailable:   12 kB\n", "MemAvailable:"), Some(12 << 10));
        assert_eq!(available_memory(5, Some(6)).verdict, Verdict::Warn);
        assert_eq!(available_memory(6, Some(6)).verdict, Verdict::Ok);
        let limit = Some((PathBuf::from("/f"), 5));
        assert_eq!(cgroup_limit(limit.clone(), Some(6)).verdict, Verdict::Warn);
        assert_eq!(cgroup_limit(limit, None).verdict, Verdict::Ok);
    }
}
