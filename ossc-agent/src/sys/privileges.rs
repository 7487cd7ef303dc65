//! What a process or thread may do, given up as soon as it is not needed any more (capabilities(7)), and what others
//! may see of it.
//!
//! Driven by the wiring and by whoever starts a thread. Capabilities are a thread's own, and a thread has those of
//! the one that started it: each long-lived thread calls [`keep_only`] first, the main ones when their set-up is
//! done. docs/security.md says of each capability what it is for. What cannot be given up is a line in the log, since
//! the work is the same with it.

use std::ffi::CStr;
use std::io;
use std::ptr;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The agent when its readers are held: the mark of its own files is a `trusted.` attribute (`SYS_ADMIN`, xattr(7)),
/// the model directory may be another user's (`DAC_OVERRIDE`, `FOWNER`), a COMMAND that gets signals too (`KILL`), maps
/// of the probes need it before Linux 5.19 (`BPF`), and a keeper that is started again asks the OOM killer to spare it
/// (`SYS_RESOURCE`).
pub const AGENT: &[Capability] = &[
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_KILL,
    Capability::CAP_BPF,
    Capability::CAP_SYS_RESOURCE,
];
/// The keeper, which hides files and ends stopped processes as [`STOPS`] does.
pub const KEEPER: &[Capability] = &[
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_BPF,
    Capability::CAP_KILL,
    Capability::CAP_SYS_PTRACE,
];
/// The gate where it stops processes: the programs' maps, signals to anybody, and what others have mapped
/// (proc_pid_maps(5)).
pub const STOPS: &[Capability] = &[Capability::CAP_BPF, Capability::CAP_KILL, Capability::CAP_SYS_PTRACE];
/// A thread that talks to the network: credentials files may be another user's.
pub const FETCH: &[Capability] = &[Capability::CAP_DAC_READ_SEARCH];
/// The thread that reads the probes' records.
pub const PROBES: &[Capability] = &[Capability::CAP_BPF];
/// A thread that works on what is open.
pub const NONE: &[Capability] = &[];

/// Whether this thread has all of these.
#[must_use]
pub fn has(needed: &[Capability]) -> bool {
    needed.iter().all(|&capability| caps::has_cap(None, CapSet::Permitted, capability).unwrap_or(false))
}

/// Leaves this thread, and those it starts, these capabilities of the ones it has. No program that it starts has
/// more, whatever its user or its file says (`PR_SET_NO_NEW_PRIVS`).
pub fn keep_only(kept: &[Capability]) {
    if let Err(error) = try_keep_only(kept) {
        tracing::warn!(%error, "capabilities that are not needed could not be given up");
    }
}

fn try_keep_only(kept: &[Capability]) -> Result<(), caps::errors::CapsError> {
    if let Err(error) = prctl::set_no_new_privs() {
        tracing::warn!(%error, "programs started from here could have more capabilities");
    }
    let permitted = caps::read(None, CapSet::Permitted)?;
    let left: CapsHashSet =
        kept.iter().copied().filter(|capability| permitted.contains(capability)).collect();
    // What is effective must be permitted, at every step.
    caps::set(None, CapSet::Effective, &left)?;
    caps::set(None, CapSet::Permitted, &left)?;
    caps::clear(None, CapSet::Inheritable)
}

/// Keeps the memory of this process, and what /proc tells of it beyond its name, from all but root, and from the disk
/// when it crashes: keys are in it. Programs that it starts are not concerned once [`restore_core`] has run.
pub fn conceal() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    CORE_AT_START.get_or_init(|| soft);
    setrlimit(Resource::RLIMIT_CORE, 0, hard)?;
    Ok(())
}

/// The soft limit of core files before [`conceal`].
static CORE_AT_START: std::sync::OnceLock<u64> = std::sync::OnceLock::new();

/// Gives the limit of core files back to a program about to be started. Only system calls: may run between fork and
/// exec.
pub fn restore_core() -> io::Result<()> {
    if let Some(&soft) = CORE_AT_START.get() {
        let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
        setrlimit(Resource::RLIMIT_CORE, soft.min(hard), hard)?;
    }
    Ok(())
}

/// Overwrites the values of these variables where the kernel shows them (/proc/PID/environ, proc_pid_environ(5)); they
/// are empty afterwards. To be called before any other thread exists, with what was to be known of them copied.
pub fn wipe_variables(names: &[&CStr]) {
    for name in names {
        // SAFETY: the name ends with a NUL, and no other thread changes the environment.
        let value = unsafe { libc::getenv(name.as_ptr()) };
        if value.is_null() {
            continue;
        }
        // SAFETY: getenv gave a C string.
        let length = unsafe { libc::strlen(value) };
        // SAFETY: exactly the bytes of that string, which lie in the writable block that the kernel made at exec.
        unsafe { ptr::write_bytes(value, 0, length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_what_is_named_and_others_keep_theirs() {
        let before = caps::read(None, CapSet::Permitted).unwrap();
        let (inner, child) = std::thread::spawn(|| {
            keep_only(&[Capability::CAP_FOWNER]);
            let inner = caps::read(None, CapSet::Permitted).unwrap();
            let child =
                std::process::Command::new("grep").args(["CapEff", "/proc/self/status"]).output().unwrap();
            (inner, String::from_utf8(child.stdout).unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(inner, [Capability::CAP_FOWNER].into());
        assert_eq!(child.split_whitespace().last(), Some("0000000000000008"), "a program gets nothing back");
        assert_eq!(caps::read(None, CapSet::Permitted).unwrap(), before);
    }
}
