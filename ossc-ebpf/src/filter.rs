//! Which threads and files a program cares about. The cheapest test comes first, because these programs run
//! in system calls of every process on the machine.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns};
use ossc_common::{CGROUPS_MAX, Change, Record};

use crate::kernel::{Address, identity};
use crate::maps::{CGROUPS, TARGETS, WATCHED, setting};

/// The running thread.
#[derive(Clone, Copy)]
pub(crate) struct Thread {
    /// Process id in the upper half, thread id in the lower one: a key for maps.
    pub(crate) id: u64,
}

impl Thread {
    /// The running thread, target or not.
    pub(crate) fn current() -> Self {
        Self { id: bpf_get_current_pid_tgid() }
    }

    /// The running thread if its process is a target.
    pub(crate) fn of_target() -> Option<Self> {
        let thread = Self::current();
        let tgid = thread.tgid();
        let wanted = tgid != setting!(own_tgid)
            && (setting!(everybody) != 0 || is_target(tgid) || is_in_target_cgroup());
        wanted.then_some(thread)
    }

    /// Its process.
    pub(crate) fn tgid(self) -> u32 {
        (self.id >> 32) as u32
    }

    /// Itself.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    fn tid(self) -> u32 {
        self.id as u32
    }

    /// A record that this thread touched `file` now.
    pub(crate) fn touches(self, file: u32, kind: u32) -> Record {
        let at_ns = now_ns();
        Record { at_ns, offset: 0, length: 0, address: 0, file, kind, tgid: self.tgid(), tid: self.tid() }
    }

    /// A change of this thread's memory at `address`.
    pub(crate) fn changes(self, address: u64, length: u64, kind: u32) -> Change {
        let (tgid, tid) = (self.tgid(), self.tid());
        Change { at_ns: now_ns(), address, length, from: 0, from_length: 0, kind, tgid, tid, padding: 0 }
    }
}

/// `CLOCK_MONOTONIC`.
pub(crate) fn now_ns() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Whether the process is in the target map.
pub(crate) fn is_target(tgid: u32) -> bool {
    TARGETS.get_ptr(tgid).is_some()
}

fn is_in_target_cgroup() -> bool {
    let filled = setting!(cgroups);
    for slot in 0..CGROUPS_MAX {
        if slot >= filled {
            break;
        }
        if CGROUPS.current_task_under_cgroup(slot) == Ok(true) {
            return true;
        }
    }
    false
}

/// The number under which user space watches the file of a `struct inode`, if it does.
pub(crate) fn watched(inode: Address) -> Option<u32> {
    // SAFETY: a torn read cannot happen on a u32; a file unwatched meanwhile gives its old number.
    unsafe { WATCHED.get(identity(inode)?) }.copied()
}
