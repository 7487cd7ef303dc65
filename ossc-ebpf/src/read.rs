//! read(2), pread64(2), readv(2), preadv(2) and preadv2(2) of a watched file, at their entry: what the reader
//! asks for, also when it then has to wait for it. One record a call, whatever the call returns.

use aya_ebpf::{helpers::bpf_probe_read_user, macros::tracepoint, programs::TracePointContext};
use ossc_common::KIND_READ;

use crate::filter::{Thread, watched};
use crate::kernel::{Address, file_of_descriptor, inode_of_file, position_of_file};
use crate::maps::{Call, send};
use crate::stall;
use crate::syscall::argument;

/// Buffers of a vectored read whose lengths are summed; the rest of a longer list is not seen. No client of
/// model files uses more than a few.
const BUFFERS_MAX: usize = 32;

/// preadv2's offset for "at the file's position" (readv(2)).
const AT_POSITION: u64 = u64::MAX;

/// `struct iovec` of include/uapi/linux/uio.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Buffer {
    _base: u64,
    length: u64,
}

#[tracepoint]
pub(crate) fn read_enter(ctx: TracePointContext) -> u32 {
    let _ = record(&ctx, AT_POSITION, || argument::<2>(&ctx));
    0
}

#[tracepoint]
pub(crate) fn pread_enter(ctx: TracePointContext) -> u32 {
    let _ = record(&ctx, argument::<3>(&ctx), || argument::<2>(&ctx));
    0
}

#[tracepoint]
pub(crate) fn readv_enter(ctx: TracePointContext) -> u32 {
    let _ = record(&ctx, AT_POSITION, || total(argument::<1>(&ctx), argument::<2>(&ctx)));
    0
}

/// The second half of the offset, argument 4, matters on 32-bit machines only (`pos_from_hilo`, fs/read_write.c).
#[tracepoint]
pub(crate) fn preadv_enter(ctx: TracePointContext) -> u32 {
    let _ = record(&ctx, argument::<3>(&ctx), || total(argument::<1>(&ctx), argument::<2>(&ctx)));
    0
}

/// The length is asked for last: it may take many looks, and most reads are of no watched file.
#[inline(always)]
fn record(ctx: &TracePointContext, offset: u64, length: impl FnOnce() -> u64) -> Option<()> {
    let thread = Thread::of_target()?;
    let file: Address = file_of_descriptor(argument::<0>(ctx) & u64::from(u32::MAX))?;
    let inode = inode_of_file(file)?;
    let mut record = thread.touches(watched(inode)?, KIND_READ);
    record.offset = if offset == AT_POSITION { position_of_file(file)? } else { offset };
    record.length = length();
    if record.length > 0 {
        let end = record.offset.wrapping_add(record.length);
        let began_ns = if stall::is_timed(inode) { record.at_ns } else { 0 };
        stall::remember(thread, Call { inode: inode as u64, begin: record.offset, end, began_ns });
        send(&record);
    }
    Some(())
}

/// The bytes of a list of buffers in the reader's memory.
fn total(list: u64, count: u64) -> u64 {
    let mut sum = 0_u64;
    for index in 0..BUFFERS_MAX {
        if index as u64 >= count {
            break;
        }
        let address = (list as *const Buffer).wrapping_add(index);
        // SAFETY: the helper checks the address itself.
        match unsafe { bpf_probe_read_user(address) } {
            Ok(buffer) => sum = sum.wrapping_add(buffer.length),
            Err(_) => break,
        }
    }
    sum
}
