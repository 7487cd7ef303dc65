//! Touches of a watched file's page cache: faults on mappings, and reads that no system call of `read.rs` asked for
//! (sendfile, splice, copy_file_range, io_uring). In Linux 6.12 and newer; tmpfs is read without these.
//!
//! Raw tracepoints: a third of the cost of the formatted ones, which a long read meets every 15 folios. Their
//! arguments are `struct address_space *mapping` and numbers of pages (include/trace/events/filemap.h).

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use ossc_common::{KIND_FAULT, KIND_READ};

use crate::filter::{Thread, watched};
use crate::kernel::{
    Address, file_of_request, inode_of_file, inode_of_mapping, position_of_request, wanted_by_buffers,
};
use crate::maps::{Call, LAST_CALLS, send, setting};
use crate::{folio, stall};

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
    let _ = touch(ctx.arg(0), ctx.arg(1), ctx.arg(1));
    0
}

/// TP_PROTO(mapping, start, end): a fault that mapped those of `start..=end` that were there (fault_around_bytes,
/// 64 KiB by default), and more where these are part of a large folio.
#[raw_tracepoint]
pub(crate) fn map_pages(ctx: RawTracePointContext) -> i32 {
    let _ = touch(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

/// TP_PROTO(struct kiocb *iocb, struct iov_iter *iter, ...), fs/iomap/trace.h: a read or write past the page cache
/// begins (O_DIRECT), on every disk file system that has been tried.
#[raw_tracepoint]
pub(crate) fn direct(ctx: RawTracePointContext) -> i32 {
    let _ = read_directly(ctx.arg(0), ctx.arg(1));
    0
}

fn read(mapping: Address, (begin, end): (u64, u64)) -> Option<()> {
    let thread = Thread::of_target()?;
    let inode = inode_of_mapping(mapping)?;
    if is_told(thread, inode, begin, end) {
        return None;
    }
    let mut record = thread.touches(watched(inode)?, KIND_READ);
    (record.offset, record.length) = (begin, end.wrapping_sub(begin));
    stall::remember(thread, Call { inode: inode as u64, begin, end, began_ns: 0 });
    send(&record);
    Some(())
}

/// Here a call comes once, so what a thread reads twice is told twice.
fn read_directly(request: Address, buffers: Address) -> Option<()> {
    let thread = Thread::of_target()?;
    let length = wanted_by_buffers(buffers)?;
    let inode = inode_of_file(file_of_request(request)?)?;
    let begin = position_of_request(request)?;
    if length == 0 || is_told(thread, inode, begin, begin.wrapping_add(length)) {
        return None;
    }
    let mut record = thread.touches(watched(inode)?, KIND_READ);
    (record.offset, record.length) = (begin, length);
    send(&record);
    Some(())
}

/// Whether the bytes are those of the last call, which has got to the file with this.
fn is_told(thread: Thread, inode: Address, begin: u64, end: u64) -> bool {
    let Some(last) = LAST_CALLS.get_ptr_mut(thread.id) else { return false };
    // SAFETY: as in `stall::remember`.
    let last = unsafe { &mut *last };
    if !covers(last, inode, begin, end) {
        return false;
    }
    if last.began_ns != 0
        && let Some(file) = watched(inode)
    {
        stall::end(thread, file, last);
    }
    true
}

fn touch(mapping: Address, mut first: u64, mut last: u64) -> Option<()> {
    let thread = Thread::of_target()?;
    let mut record = thread.touches(watched(inode_of_mapping(mapping)?)?, KIND_FAULT);
    if first != last
        && let Some((folio_first, folio_last)) = folio::mapped_whole(mapping, first)
    {
        // The window is wider than a small folio.
        (first, last) = (first.min(folio_first), last.max(folio_last));
    }
    let (begin, end) = pages(first, last);
    (record.offset, record.length) = (begin, end.wrapping_sub(begin));
    // Of mmap(2) with MAP_POPULATE, which has got past the gate.
    stall::mmap_over(thread, record.file);
    send(&record);
    Some(())
}

/// From the first and last page to the offsets of the first byte and behind the last one.
fn pages(first: u64, last: u64) -> (u64, u64) {
    let shift = setting!(page_shift);
    (first << shift, last.wrapping_add(1) << shift)
}

/// Whether the bytes `begin..end` are those of the call `last`.
fn covers(last: &Call, inode: Address, begin: u64, end: u64) -> bool {
    let page = 1_u64 << setting!(page_shift);
    let (first, behind) = (last.begin & !(page - 1), last.end.wrapping_add(page - 1) & !(page - 1));
    last.inode == inode as u64 && first <= begin && end <= behind
}
