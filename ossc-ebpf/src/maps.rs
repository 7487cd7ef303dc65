//! Every map and global of the object, in one place; user space finds them by these names.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    macros::map,
    maps::{Array, CgroupArray, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use ossc_common::{
    CGROUPS_MAX, Change, Inode, LOSSES, LOST_RECORDS, MAPS_IN_FLIGHT_MAX, Offsets, READERS_MAX, RING_BYTES,
    Record, Settings, Span, TARGETS_MAX, WAKE_INTERVAL_MS, WATCHED_MAX,
};

/// Processes (thread group ids) that are targets; the value says nothing.
#[map]
pub(crate) static TARGETS: HashMap<u32, u32> = HashMap::with_max_entries(TARGETS_MAX, 0);

/// Cgroups whose processes are targets, in the first `Settings::cgroups` slots.
#[map]
pub(crate) static CGROUPS: CgroupArray = CgroupArray::with_max_entries(CGROUPS_MAX, 0);

/// Watched files and the number user space gave each.
#[map]
pub(crate) static WATCHED: HashMap<Inode, u32> = HashMap::with_max_entries(WATCHED_MAX, 0);

/// mmap(2) calls between entry and exit, by thread.
#[map]
pub(crate) static MAPS_IN_FLIGHT: LruHashMap<u64, Record> =
    LruHashMap::with_max_entries(MAPS_IN_FLIGHT_MAX, 0);

/// A call on a watched file: where its inode is in kernel memory, the offsets of the first byte and behind the last
/// one, and when it began if that is to be told once it goes on; else 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) inode: u64,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) began_ns: u64,
}

/// The last read or mapping of a watched file, by thread.
#[map]
pub(crate) static LAST_CALLS: LruHashMap<u64, Call> = LruHashMap::with_max_entries(READERS_MAX, 0);

/// Processes that have mapped watched files, and the part of their memory in which all these mappings lie. It grows
/// and does not shrink: a fault beside the mappings costs a record too many.
#[map]
pub(crate) static MAPPED: HashMap<u32, Span> = HashMap::with_max_entries(TARGETS_MAX, 0);

/// mremap(2) calls between entry and exit, by thread.
#[map]
pub(crate) static REMAPS_IN_FLIGHT: LruHashMap<u64, Change> =
    LruHashMap::with_max_entries(MAPS_IN_FLIGHT_MAX, 0);

/// Records on their way to user space.
#[map]
pub(crate) static RECORDS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// When the reading thread was last woken, in its only slot.
#[map]
pub(crate) static LAST_WAKE: Array<u64> = Array::with_max_entries(1, 0);

/// What could not be recorded, by `LOST_` slot.
#[map]
pub(crate) static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(LOSSES, 0);

/// Replaced by the loader before the programs are verified.
#[unsafe(no_mangle)]
pub(crate) static SETTINGS: Settings =
    Settings { own_tgid: 0, everybody: 0, cgroups: 0, page_shift: 0, stalls: 0, offsets: Offsets::UNKNOWN };

/// Reads one member of [`SETTINGS`]. Volatile, because the compiler must not take the zeros above for the
/// value.
macro_rules! setting {
    ($($member:ident).+) => {{
        // SAFETY: the address of a member of a static is valid and aligned.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::SETTINGS.$($member).+) }
    }};
}
pub(crate) use setting;

/// Sends a record to user space, or counts that it could not.
pub(crate) fn send(record: &Record) {
    if RECORDS.output::<Record>(record, wake(record.at_ns).into()).is_err() {
        count_loss(LOST_RECORDS);
    }
}

/// Sends a change of memory to user space, or counts that it could not.
pub(crate) fn send_change(change: &Change) {
    if RECORDS.output::<Change>(change, wake(change.at_ns).into()).is_err() {
        count_loss(LOST_RECORDS);
    }
}

/// Whether to wake the reading thread: not if it was woken a moment ago, because after that it keeps looking for
/// a while. Two processors may both find it time; it is then woken twice.
fn wake(now: u64) -> u32 {
    let interval = u64::from(WAKE_INTERVAL_MS) * 1_000_000;
    match LAST_WAKE.get_ptr_mut(0) {
        // SAFETY: the only slot of an array, which stays; a torn read cannot happen on a u64.
        Some(last) if now.wrapping_sub(unsafe { *last }) < interval => BPF_RB_NO_WAKEUP,
        Some(last) => {
            // SAFETY: as above.
            unsafe { *last = now };
            BPF_RB_FORCE_WAKEUP
        }
        None => BPF_RB_FORCE_WAKEUP,
    }
}

/// Adds one to a loss counter.
pub(crate) fn count_loss(slot: u32) {
    if let Some(count) = LOST.get_ptr_mut(slot) {
        // SAFETY: the slot of this processor; the program cannot be moved to another one while it runs.
        unsafe { *count += 1 };
    }
}
