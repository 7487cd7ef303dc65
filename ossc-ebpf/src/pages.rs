//! Touches of a watched file's page cache: faults on mappings, and reads that no system call of `read.rs` asked for
//! (sendfile, splice, copy_file_range, io_uring). In Linux 6.12 and newer; tmpfs is read without these.
//!
//! Raw tracepoints: a third of the cost of the formatted ones, which a long read meets every 15 folios. Their
//! arguments are `struct address_space *mapping` and numbers of pages (include/trace/events/filemap.h).

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use ossc_common::{KIND_FAULT, KIND_READ};

use crate::filter::{Thread, watched};
use crate::kernel::{Address, inode_of_mapping};
use crate::maps::{LAST_READS, Read, send, setting};

/// TP_PROTO(mapping, index, last_index): a read takes pages `index..=last_index` out of the page cache. A long one
/// comes here several times, each time with the whole rest.
#[raw_tracepoint]
pub(crate) fn get_pages(ctx: RawTracePointContext) -> i32 {
    let _ = read(ctx.arg(0), pages(ctx.arg(1), ctx.arg(2)));
    0
}

/// TP_PROTO(mapping, index): a fault on a page that was not in the page cache, or that could not be mapped together
/// with its neighbours.
#[raw_tracepoint]
pub(crate) fn fault(ctx: RawTracePointContext) -> i32 {
    let _ = touch(ctx.arg(0), pages(ctx.arg(1), ctx.arg(1)));
    0
}

/// TP_PROTO(mapping, start, end): a fault that mapped those of `start..=end` that were there (fault_around_bytes,
/// 64 KiB by default).
#[raw_tracepoint]
pub(crate) fn map_pages(ctx: RawTracePointContext) -> i32 {
    let _ = touch(ctx.arg(0), pages(ctx.arg(1), ctx.arg(2)));
    0
}

/// Keeps the last read of a thread: what the page cache then does for it is not another access.
pub(crate) fn remember(thread: Thread, read: Read) {
    match LAST_READS.get_ptr_mut(thread.id) {
        // SAFETY: an entry that was given to another thread meanwhile makes that one's read be told twice.
        Some(last) => unsafe { *last = read },
        // Without room, too, reads are told twice.
        None => drop(LAST_READS.insert(thread.id, read, 0)),
    }
}

fn read(mapping: Address, (begin, end): (u64, u64)) -> Option<()> {
    let thread = Thread::of_target()?;
    let inode = inode_of_mapping(mapping)?;
    // SAFETY: as in `remember`.
    if unsafe { LAST_READS.get(thread.id) }.is_some_and(|last| covers(last, inode, begin, end)) {
        return None;
    }
    let mut record = thread.touches(watched(inode)?, KIND_READ);
    (record.offset, record.length) = (begin, end.wrapping_sub(begin));
    remember(thread, Read { inode: inode as u64, begin, end });
    send(&record);
    Some(())
}

fn touch(mapping: Address, (begin, end): (u64, u64)) -> Option<()> {
    let thread = Thread::of_target()?;
    let mut record = thread.touches(watched(inode_of_mapping(mapping)?)?, KIND_FAULT);
    (record.offset, record.length) = (begin, end.wrapping_sub(begin));
    send(&record);
    Some(())
}

/// From the first and last page to the offsets of the first byte and behind the last one.
fn pages(first: u64, last: u64) -> (u64, u64) {
    let shift = setting!(page_shift);
    (first << shift, last.wrapping_add(1) << shift)
}

/// Whether the pages `begin..end` are those of the read `last`.
fn covers(last: &Read, inode: Address, begin: u64, end: u64) -> bool {
    let page = 1_u64 << setting!(page_shift);
    let (first, behind) = (last.begin & !(page - 1), last.end.wrapping_add(page - 1) & !(page - 1));
    last.inode == inode as u64 && first <= begin && end <= behind
}
