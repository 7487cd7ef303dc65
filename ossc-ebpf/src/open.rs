//! open(2), openat(2), openat2(2) of a watched file.
//!
//! Per-call tracepoints and not the raw `sys_exit`, which needs no tracefs but would run at every system call
//! of every process. At the exit: only then is there a descriptor that leads to the inode; the path of the
//! call would not, since links and mounts stand between. One program serves all three calls.

use aya_ebpf::{macros::tracepoint, programs::TracePointContext};
use aya_log_ebpf::debug;
use ossc_common::KIND_OPEN;

use crate::filter::{Thread, watched};
use crate::kernel::{file_of_descriptor, inode_of_file};
use crate::maps::send;
use crate::syscall;

#[tracepoint]
pub(crate) fn open_exit(ctx: TracePointContext) -> u32 {
    let _ = record(&ctx);
    0
}

fn record(ctx: &TracePointContext) -> Option<()> {
    let descriptor = syscall::result(ctx)?;
    let thread = Thread::of_target()?;
    let file = watched(inode_of_file(file_of_descriptor(descriptor)?)?)?;
    let record = thread.touches(file, KIND_OPEN);
    send(&record);
    debug!(ctx, "process {} thread {} opened file {}", record.tgid, record.tid, file);
    Some(())
}
