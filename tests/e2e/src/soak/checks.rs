//! What must not be there after a step, and what an agent may use: asked of the kernel, through /proc.
//!
//! Driven by `step` and, for the soak's own process, by `run`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::unistd::Pid;

/// What an agent promises, as in `tests/memory.rs`.
pub const LIMIT_KIB: u64 = 128 << 10;
/// Between two looks at something that must go away; /proc has no wait.
const LOOK: Duration = Duration::from_millis(20);

/// Looks until `done`; an error when that takes longer than `limit`.
pub(super) fn eventually(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    while !done()? {
        ensure!(Instant::now() < deadline, "{what} within {limit:?}");
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// The highest resident memory so far of a process, in KiB; 0 when it has ended.
pub(super) fn peak_kib(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// How many descriptors a process has.
pub(super) fn descriptors(pid: Pid) -> anyhow::Result<u64> {
    let folder = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&folder).with_context(|| format!("list {folder}"))?.count() as u64)
}

/// How many inodes the process's fanotify groups watch.
pub(super) fn marks(pid: Pid) -> anyhow::Result<usize> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut marks = 0;
    for entry in fs::read_dir(&folder).with_context(|| format!("list {folder}"))? {
        // A descriptor may be closed between the listing and the look.
        let about = fs::read_to_string(entry?.path()).unwrap_or_default();
        marks += about.lines().filter(|line| line.starts_with("fanotify ino:")).count();
    }
    Ok(marks)
}

/// The processes, other than this one, that have `path` in their arguments or their environment, and whether each is a
/// keeper.
pub(super) fn processes_of(path: &Path) -> anyhow::Result<Vec<(Pid, bool)>> {
    let path = path.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list /proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end between the listing and the look.
        let read = |name| fs::read(entry.path().join(name)).unwrap_or_default();
        let (arguments, environment) = (read("cmdline"), read("environ"));
        let names = |bytes: &[u8]| bytes.windows(path.len()).any(|window| window == path);
        if pid != Pid::this().as_raw() && (names(&arguments) || names(&environment)) {
            let is_keeper = arguments.split(|byte| *byte == 0).nth(1) == Some(b"keeper");
            found.push((Pid::from_raw(pid), is_keeper));
        }
    }
    Ok(found)
}

/// An error when something is still mounted below `path`, or a loop device is backed by a file there.
pub(super) fn nothing_mounted(path: &Path) -> anyhow::Result<()> {
    let path = path.display().to_string();
    let mounts = fs::read_to_string("/proc/thread-self/mounts").context("the mounts")?;
    if let Some(mount) = mounts.lines().find(|line| line.contains(&path)) {
        bail!("still mounted: {mount}");
    }
    for device in fs::read_dir("/sys/block").context("the block devices")? {
        let device = device?.path();
        let backing = fs::read_to_string(device.join("loop/backing_file")).unwrap_or_default();
        ensure!(!backing.contains(&path), "{} still has {backing}", device.display());
    }
    Ok(())
}

/// What the soak's own process holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own {
    descriptors: u64,
    threads: usize,
}

impl Own {
    /// Now.
    pub(super) fn look() -> anyhow::Result<Self> {
        let threads = fs::read_dir("/proc/self/task").context("own threads")?.count();
        Ok(Self { descriptors: descriptors(Pid::this())?, threads })
    }

    /// Waits until there is no more than before; threads that collect logs end a moment after their pipe.
    pub(super) fn is_left_alone(self, limit: Duration) -> anyhow::Result<()> {
        eventually("no descriptor or thread of the soak is left", limit, || {
            let now = Self::look()?;
            Ok(now.descriptors <= self.descriptors && now.threads <= self.threads)
        })
    }
}
