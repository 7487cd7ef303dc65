//! Processes: limits, held starts, own identity.
//!
//! Called once at start by the wiring (limits) and by whoever stamps an observation (clock). Nothing here
//! keeps state; a refused limit is reported with the kernel's error and changes nothing.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

/// Most descriptors the agent ever has open: the kernel's own default limit (`fs.nr_open`), and the number of
/// places in the record of unanswered events, which are counted by descriptor.
pub const MOST_OPEN_FILES: usize = 1 << 20;

/// The soft limit of open descriptors before it was raised.
static SOFT_AT_START: OnceLock<u64> = OnceLock::new();

/// Raises the soft limit of open descriptors (`RLIMIT_NOFILE`) to the hard limit, or to [`MOST_OPEN_FILES`], and
/// returns it. Every held reader costs the agent one descriptor, every file and connection another; the usual
/// soft limit of 1024 is there for programs that use select(2), which the agent does not.
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    SOFT_AT_START.get_or_init(|| soft);
    let limit = hard.min(MOST_OPEN_FILES as u64);
    if soft != limit {
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard)?;
    }
    Ok(limit)
}

/// Lets these signals pass without effect, for good.
pub fn ignore(signals: &[Signal]) -> io::Result<()> {
    for which in signals {
        // SAFETY: no handler is installed, the signal is only ignored.
        let outcome: Result<_, Errno> = unsafe { signal(*which, SigHandler::SigIgn) };
        outcome?;
    }
    Ok(())
}

/// A duplicate of a descriptor with the lowest free number that is not below `least`.
pub fn duplicate_from(fd: impl AsFd, least: RawFd) -> io::Result<OwnedFd> {
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(least))?;
    // SAFETY: the call succeeded, so `number` is a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Descriptors that this process was started with besides the first three, by their numbers.
///
/// # Errors
/// `EBADF` when one is not open.
pub fn take_given(numbers: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    let take = |number: &RawFd| {
        // SAFETY: fcntl looks at the number only; what is not open is an error.
        let flags = unsafe { libc::fcntl(*number, libc::F_GETFD) };
        Errno::result(flags)?;
        // SAFETY: it is open, the parent made it for us (its environment said so), and nothing else here knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(*number) })
    };
    numbers.iter().map(take).collect()
}

/// Gives the soft limit back that [`raise_open_files`] found, for a program about to be started: one that
/// uses select(2) breaks on descriptors from 1024 on. Only getrlimit(2) and setrlimit(2): may run between
/// fork and exec.
pub fn restore_open_files() -> io::Result<()> {
    if let Some(&soft) = SOFT_AT_START.get() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)?;
    }
    Ok(())
}

/// How many descriptors this process has open now.
pub fn open_files() -> io::Result<usize> {
    // The listing itself has one open while it counts.
    Ok(std::fs::read_dir("/proc/self/fd")?.count().saturating_sub(1))
}

/// Executes this program anew in this process, with the same arguments, these environment variables set and those
/// taken out. All descriptors that are closed on exec, and all threads, are gone then; children stay. Returns only
/// an error.
pub fn execute_again<'v>(set: impl IntoIterator<Item = (&'v str, &'v str)>, unset: &[&str]) -> io::Error {
    use std::os::unix::process::CommandExt;
    let mut arguments = std::env::args_os();
    // The file itself, also where another one has taken its name meanwhile.
    let mut command = std::process::Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    for name in unset {
        command.env_remove(name);
    }
    command.args(arguments).envs(set).exec()
}

/// The parent of a process; 0 for the first one of the pid namespace (proc_pid_status(5)).
pub fn parent(pid: u32) -> io::Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let missing = || io::Error::other(format!("/proc/{pid}/status shows no PPid"));
    parent.and_then(|parent| parent.trim().parse().ok()).ok_or_else(missing)
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of `bpf_ktime_get_ns`, so that what the gate saw and what
/// the probes saw can be put in one order.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut now = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `now` is valid for one timespec, which is all the call writes.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, now.as_mut_ptr()) };
    debug_assert_eq!(status, 0, "the monotonic clock always exists");
    // SAFETY: every bit pattern is a timespec, and it was zeroed before the call.
    let now = unsafe { now.assume_init() };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_can_reach_the_hard_limit() {
        let limit = raise_open_files().unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!((soft, limit), (limit, hard.min(MOST_OPEN_FILES as u64)));
        assert!((open_files().unwrap() as u64) < limit);
    }

    #[test]
    fn a_process_has_a_parent() {
        assert_eq!(parent(std::process::id()).unwrap(), std::os::unix::process::parent_id());
        assert_eq!(parent(1).unwrap(), 0);
        assert!(parent(u32::MAX).is_err());
    }

    #[test]
    fn the_clock_goes_forward() {
        let first = monotonic_ns();
        assert!(first > 0 && monotonic_ns() >= first);
    }
}
