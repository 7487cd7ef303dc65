//! How long calls on a watched file wait before they reach it: from the entry of a read to its first page, and from
//! the entry of mmap(2) to its first page or its end. Only of files under a fanotify permission mark, and only where
//! user space asks for it: elsewhere there is nobody to wait for.
//!
//! The permission is asked for at the entry, before the page cache is looked at (`rw_verify_area` in fs/read_write.c,
//! `vm_mmap_pgoff` in mm/util.c); what comes between is a microsecond of locks.

use ossc_common::KIND_STALL;

use crate::filter::{Thread, now_ns};
use crate::kernel::{Address, is_gated};
use crate::maps::{Call, LAST_CALLS, send, setting};

/// Whether a call on this inode is timed.
pub(crate) fn is_timed(inode: Address) -> bool {
    setting!(stalls) != 0 && is_gated(inode)
}

/// Keeps the last call of a thread: what the page cache then does for it is not another access, and ends its wait.
pub(crate) fn remember(thread: Thread, call: Call) {
    match LAST_CALLS.get_ptr_mut(thread.id) {
        // SAFETY: an entry that was given to another thread meanwhile makes that one's read be told twice.
        Some(last) => unsafe { *last = call },
        // Without room, too, reads are told twice.
        None => drop(LAST_CALLS.insert(thread.id, call, 0)),
    }
}

/// The thread's mmap(2), if it is in one, has got to the file, or to its end.
pub(crate) fn mmap_over(thread: Thread, file: u32) {
    if setting!(stalls) == 0 {
        return;
    }
    if let Some(last) = LAST_CALLS.get_ptr_mut(thread.id) {
        // SAFETY: as in `remember`.
        let last = unsafe { &mut *last };
        // A read has a length; one that failed is still here, and waits for nothing.
        if last.begin == last.end {
            end(thread, file, last);
        }
    }
}

/// Tells how long a call has waited, once.
pub(crate) fn end(thread: Thread, file: u32, call: &mut Call) {
    if setting!(stalls) == 0 || call.began_ns == 0 {
        return;
    }
    let mut record = thread.touches(file, KIND_STALL);
    record.length = now_ns().saturating_sub(call.began_ns);
    record.offset = call.begin;
    record.at_ns = call.began_ns;
    call.began_ns = 0;
    send(&record);
}
