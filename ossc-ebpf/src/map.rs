//! mmap(2) of a watched file: the arguments at entry, the address at exit, one record for both.
//!
//! The inode is looked up at entry: another thread may close or reuse the descriptor before the call ends.

use aya_ebpf::{macros::tracepoint, programs::TracePointContext};
use aya_log_ebpf::debug;
use ossc_common::KIND_MAP;

use crate::filter::{Thread, watched};
use crate::kernel::{file_of_descriptor, inode_of_file};
use crate::maps::{Call, MAPS_IN_FLIGHT, send};
use crate::{memory, stall, syscall};

/// `MAP_FIXED`: what was mapped there is gone (include/uapi/linux/mman.h).
const MAP_FIXED: u64 = 0x10;
/// `MAP_ANONYMOUS`: no file, whatever the descriptor says (include/uapi/asm-generic/mman-common.h).
const MAP_ANONYMOUS: u64 = 0x20;

#[tracepoint]
pub(crate) fn mmap_enter(ctx: TracePointContext) -> u32 {
    let _ = remember(&ctx);
    0
}

#[tracepoint]
pub(crate) fn mmap_exit(ctx: TracePointContext) -> u32 {
    let _ = record(&ctx);
    0
}

fn remember(ctx: &TracePointContext) -> Option<()> {
    let flags = syscall::argument::<3>(ctx);
    if flags & MAP_FIXED != 0 {
        memory::unmap(syscall::argument::<0>(ctx), syscall::argument::<1>(ctx));
    }
    if flags & MAP_ANONYMOUS != 0 {
        return None;
    }
    let thread = Thread::of_target()?;
    // The kernel takes the descriptor as a 32-bit number; what is above is noise.
    let descriptor = syscall::argument::<4>(ctx) & u64::from(u32::MAX);
    let inode = inode_of_file(file_of_descriptor(descriptor)?)?;
    let file = watched(inode)?;
    let mut record = thread.touches(file, KIND_MAP);
    record.length = syscall::argument::<1>(ctx);
    record.offset = syscall::argument::<5>(ctx);
    if stall::is_timed(inode) {
        // Of no length: a read that comes later is not this call's.
        let (begin, began_ns) = (record.offset, record.at_ns);
        stall::remember(thread, Call { inode: inode as u64, begin, end: begin, began_ns });
    }
    MAPS_IN_FLIGHT.insert(thread.id, record, 0).ok()
}

fn record(ctx: &TracePointContext) -> Option<()> {
    let thread = Thread::of_target()?;
    // SAFETY: only this thread writes the entry, and it is here.
    let mut record = *unsafe { MAPS_IN_FLIGHT.get(thread.id) }?;
    MAPS_IN_FLIGHT.remove(thread.id).ok()?;
    stall::mmap_over(thread, record.file);
    record.address = syscall::result(ctx)?;
    memory::widen(record.tgid, record.address, record.length);
    send(&record);
    debug!(
        ctx,
        "process {} thread {} mapped file {} from {} for {}",
        record.tgid,
        record.tid,
        record.file,
        record.offset,
        record.length
    );
    Some(())
}
