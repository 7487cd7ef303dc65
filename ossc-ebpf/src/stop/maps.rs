//! Every map and global of the stop gate's object; user space finds them by these names.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, RingBuf},
};
use ossc_common::{
    CALL_NUMBERS, CALL_OTHER, CONTROL_OWN, CONTROLS, DOORBELL_BYTES, Held, Inode, Offsets, ReadCall,
    Registers, Released, STOP_CALLS_MAX, STOP_PROCESSES_MAX, StopSettings, USER_STOPS_MAX, WATCHED_MAX,
};

use crate::seen::Seen;

/// What the agent says, by `CONTROL_` slot.
#[map]
pub(crate) static CONTROL: Array<u32> = Array::with_max_entries(CONTROLS, 0);

/// Files that are not complete.
#[map]
pub(crate) static GATED: HashMap<Inode, u32> = HashMap::with_max_entries(WATCHED_MAX, 0);

/// Processes that have mapped a gated file, or whose parent had; the value says nothing.
#[map]
pub(crate) static MAPPERS: HashMap<u32, u32> = HashMap::with_max_entries(STOP_PROCESSES_MAX, 0);

/// Threads that have been on [`CALLS`] or [`READS`], by thread id.
pub(crate) static CALLED: Seen = Seen::NOBODY;

/// Processes that have been on [`HELD`].
pub(crate) static EVER_HELD: Seen = Seen::NOBODY;

/// Threads between entry and exit of a call that may map missing bytes, and what it does (`mapping::Call`).
#[map]
pub(crate) static CALLS: HashMap<u64, u32> = HashMap::with_max_entries(STOP_CALLS_MAX, 0);

/// Threads that are about to look for holes of a gated file, which must have none then; removed by the agent when
/// it lets them go.
#[map]
pub(crate) static COPIERS: HashMap<u64, Inode> = HashMap::with_max_entries(STOP_CALLS_MAX, 0);

/// Threads between entry and exit of a read call, by thread id.
#[map]
pub(crate) static READS: HashMap<u32, ReadCall> = HashMap::with_max_entries(STOP_CALLS_MAX, 0);

/// Processes that were stopped, with when.
#[map]
pub(crate) static HELD: HashMap<u32, Held> = HashMap::with_max_entries(STOP_PROCESSES_MAX, 0);

/// What the agent decided of each of them; written by it alone, removed here when the process ends.
#[map]
pub(crate) static RELEASED: HashMap<u32, Released> = HashMap::with_max_entries(STOP_PROCESSES_MAX, 0);

/// Processes that somebody else has sent a SIGSTOP and no SIGCONT since.
#[map]
pub(crate) static USER_STOPS: LruHashMap<u32, u32> = LruHashMap::with_max_entries(USER_STOPS_MAX, 0);

/// Wakes the agent. What is in it is 0, or whom the programs have killed and why (`END_`).
#[map]
pub(crate) static DOORBELL: RingBuf = RingBuf::with_byte_size(DOORBELL_BYTES, 0);

/// Replaced by the loader before the programs are verified.
#[unsafe(no_mangle)]
pub(crate) static SETTINGS: StopSettings = StopSettings {
    offsets: Offsets::UNKNOWN,
    registers: Registers::UNKNOWN,
    at_mmap: 0,
    calls: [CALL_OTHER; CALL_NUMBERS],
};

/// Reads one member of [`SETTINGS`]. Volatile, because the compiler must not take the zeros above for the
/// value.
macro_rules! setting {
    ($($member:ident).+ $([$index:expr])?) => {{
        // SAFETY: the address of a member of a static is valid and aligned.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::SETTINGS.$($member).+ $([$index])?) }
    }};
}
pub(crate) use setting;

/// Whether a process is the agent.
pub(crate) fn is_own(tgid: u32) -> bool {
    control(CONTROL_OWN) == tgid
}

/// Whether mmap(2) stops its process.
pub(crate) fn stops_at_mmap() -> bool {
    setting!(at_mmap) != 0
}

/// Whether the file of a `struct inode` is gated, and what it is called.
pub(crate) fn gated(inode: crate::kernel::Address) -> Option<Inode> {
    let inode = crate::kernel::identity(inode)?;
    GATED.get_ptr(inode).map(|_| inode)
}

fn control(slot: u32) -> u32 {
    // SAFETY: a torn read cannot happen on a u32; the slot is in the array.
    CONTROL.get_ptr(slot).map_or(0, |word| unsafe { word.read_volatile() })
}
