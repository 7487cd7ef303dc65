//! Follows the target's family: a child of a target is a target, until it exits.
//!
//! Raw tracepoints, because their arguments are the task structures themselves: the formatted record of
//! `sched_process_fork` has only thread ids, which cannot tell a new process from a new thread. An exec
//! changes nothing here: the process keeps its id.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use ossc_common::LOST_CHILDREN;

use crate::filter::is_target;
use crate::kernel::{live_threads, process_of_task, thread_of_task};
use crate::maps::{TARGETS, count_loss};
use crate::memory;

/// TP_PROTO(struct task_struct *parent, struct task_struct *child), include/trace/events/sched.h.
#[raw_tracepoint]
pub(crate) fn process_fork(ctx: RawTracePointContext) -> i32 {
    let _ = adopt(ctx.arg(0), ctx.arg(1));
    0
}

/// TP_PROTO(struct task_struct *task, ...), for each thread, after it has left the count of live ones
/// (`do_exit` in kernel/exit.c).
#[raw_tracepoint]
pub(crate) fn process_exit(ctx: RawTracePointContext) -> i32 {
    let _ = forget(ctx.arg(0));
    0
}

fn adopt(parent: *const u8, child: *const u8) -> Option<()> {
    let process = process_of_task(child)?;
    if thread_of_task(child)? != process {
        return None;
    }
    let parent = process_of_task(parent)?;
    memory::copy(parent, process);
    if !is_target(parent) {
        return None;
    }
    if TARGETS.insert(process, 0, 0).is_err() {
        count_loss(LOST_CHILDREN);
    }
    Some(())
}

fn forget(task: *const u8) -> Option<()> {
    let process = process_of_task(task)?;
    // The first thread may end before the others; the process is gone when the last one is.
    if live_threads(task)? != 0 {
        return None;
    }
    memory::end(process);
    TARGETS.remove(process).ok()
}
