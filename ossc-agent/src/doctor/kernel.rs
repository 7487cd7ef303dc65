//! The kernel and what this process may do with it: privileges, the way readers are held, eBPF.

use std::fs;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::utsname::uname;

use super::report::Check;
use crate::base::chain;
use crate::bpf::{self, Lockdown, Probes, Targets};
use crate::gate::{self, Mode, Ranges};

/// Bits of capabilities the agent uses (include/uapi/linux/capability.h), and for what.
const CAPABILITIES: [(u32, &str); 6] = [
    (21, "CAP_SYS_ADMIN (fanotify permission events, trusted attributes)"),
    (39, "CAP_BPF (eBPF programs)"),
    (38, "CAP_PERFMON (eBPF programs that read kernel memory)"),
    (1, "CAP_DAC_OVERRIDE (files of other users)"),
    (5, "CAP_KILL (continuing processes that were stopped, and mappings that grow)"),
    (19, "CAP_SYS_PTRACE (what such a process has mapped)"),
];
/// Descriptors that a load of a large model with many held readers uses.
const GOOD_OPEN_FILES: u64 = 65_536;
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// `dir` is on the file system of the model directory, if one is known.
pub(super) fn checks(dir: Option<&Path>) -> Vec<Check> {
    let mut checks = vec![release(), privileges()];
    checks.extend(dir.map(gate));
    checks.push(lockdown());
    checks.push(btf());
    checks.extend(probes());
    checks.push(cgroups());
    checks.push(open_files());
    checks
}

fn release() -> Check {
    match uname() {
        Ok(name) => Check::ok(
            "kernel",
            format!("{} on {}", name.release().to_string_lossy(), name.machine().to_string_lossy()),
        ),
        Err(error) => Check::warn("kernel", format!("uname(2) failed: {error}"), "report this"),
    }
}

fn privileges() -> Check {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let Some(effective) = effective(&status) else {
        return Check::warn("privileges", "/proc/self/status shows no CapEff", "mount /proc");
    };
    let missing: Vec<&str> =
        CAPABILITIES.iter().filter(|(bit, _)| effective >> bit & 1 == 0).map(|(_, what)| *what).collect();
    if missing.is_empty() {
        return Check::ok("privileges", "all capabilities that are needed");
    }
    let advice = "run as root, or grant these to the service (AmbientCapabilities=)";
    Check::fail("privileges", format!("missing: {}", missing.join(", ")), advice)
}

/// The effective capabilities in a /proc/PID/status (proc_pid_status(5)).
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn gate(dir: &Path) -> Check {
    match gate::probe(dir).map(|found| found.mode) {
        Ok(Mode::PreContent { ranges: Ranges::Exact }) => {
            Check::ok("gate", "pre-content: each read and each mapping waits for exactly its bytes")
        }
        Ok(Mode::PreContent { ranges: Ranges::WholeFile }) => Check::warn(
            "gate",
            "pre-content without ranges: each read and each mapping waits for its whole file",
            "a kernel of 6.18 or newer reports ranges",
        ),
        Ok(Mode::Stop) => Check::ok(
            "gate",
            "stop: each read waits for exactly its bytes, and a process that maps a file is stopped until they are there",
        ),
        Ok(mode) => Check::warn(
            "gate",
            format!("{mode}: readers wait longer than for their bytes"),
            "Linux 6.14 or newer with the model on ext4, xfs or btrfs holds single reads",
        ),
        Err(error) => Check::fail(
            "gate",
            chain(&error),
            "without a gate no load is started; see docs/kernel-support.md",
        ),
    }
}

fn lockdown() -> Check {
    match Lockdown::read() {
        Lockdown::Confidentiality => Check::warn(
            "lockdown",
            "confidentiality: eBPF programs may not read kernel memory, so nothing is learned",
            "boot with lockdown=integrity if the order of reads should be learned",
        ),
        Lockdown::Readable => Check::ok("lockdown", "eBPF programs may read kernel memory"),
        Lockdown::Unknown => Check::ok("lockdown", "not in this kernel, or securityfs is not mounted"),
    }
}

fn btf() -> Check {
    if Path::new(BTF).is_file() {
        Check::ok("BTF", BTF)
    } else {
        Check::warn("BTF", format!("no {BTF}: nothing is learned"), "use a kernel with CONFIG_DEBUG_INFO_BTF")
    }
}

fn probes() -> Vec<Check> {
    let config = bpf::Config::new(Targets::Everybody);
    let summary = match Probes::start(&config, drop) {
        Ok(probes) => probes.summary(),
        Err(error) => {
            let advice = "loads work without, but the order of reads is not learned";
            return vec![Check::warn("eBPF", chain(&error), advice)];
        }
    };
    let attached = format!("{} probes attach", summary.attached.len());
    let mut checks = vec![Check::ok("eBPF", attached)];
    checks.extend(summary.missing.into_iter().map(|missing| {
        let advice = format!("unknown without it: {}", missing.consequence);
        Check::warn(missing.what, missing.why, advice)
    }));
    checks
}

fn cgroups() -> Check {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mount = table.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, place, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| place.to_owned())
    });
    match mount {
        Some(place) => Check::ok("cgroup v2", place),
        None => Check::warn("cgroup v2", "not mounted", "--cgroup needs it; --pid works without"),
    }
}

fn open_files() -> Check {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard >= GOOD_OPEN_FILES => Check::ok("open files", format!("up to {hard}")),
        Ok((_, hard)) => Check::warn(
            "open files",
            format!("up to {hard}"),
            format!("set LimitNOFILE={GOOD_OPEN_FILES} or more: each file and each held reader takes one"),
        ),
        Err(error) => Check::warn("open files", format!("getrlimit(2) failed: {error}"), "report this"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_capabilities() {
        assert_eq!(effective("Name:\tx\nCapEff:\t000000ffffffffff\n"), Some(0xff_ffff_ffff));
        assert_eq!(effective("CapEff:\tzz\n"), None);
    }
}
