//! Processes that come and go: a child has the mappings of its parent, and what is known of a thread or process
//! ends with it, so that an id that is used again finds nothing.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::hold::{Reason, current_process, hold, tell};
use crate::kernel::{Address, live_threads, process_of_task, thread_of_task};
use crate::maps::{
    CALLED, CALLS, COPIERS, HELD, MAPPERS, READS, RELEASED, USER_STOPS, is_own, stops_at_mmap,
};

/// TP_PROTO(struct task_struct *parent, struct task_struct *child), include/trace/events/sched.h.
#[raw_tracepoint]
pub(crate) fn stop_fork(ctx: RawTracePointContext) -> i32 {
    let _ = inherit(ctx.arg(0), ctx.arg(1));
    0
}

/// TP_PROTO(struct task_struct *task, ...): its old memory is gone.
#[raw_tracepoint]
pub(crate) fn stop_exec(_: RawTracePointContext) -> i32 {
    drop(MAPPERS.remove(current_process()));
    0
}

/// TP_PROTO(struct task_struct *task, ...), for each thread, after it has left the count of live ones
/// (`do_exit` in kernel/exit.c).
#[raw_tracepoint]
pub(crate) fn stop_exit(ctx: RawTracePointContext) -> i32 {
    let _ = forget(ctx.arg(0));
    0
}

fn inherit(parent: Address, child: Address) -> Option<()> {
    let tgid = process_of_task(child)?;
    if thread_of_task(child)? != tgid {
        return None;
    }
    let parent_tgid = process_of_task(parent)?;
    MAPPERS.get_ptr(parent_tgid)?;
    if is_own(parent_tgid) {
        return None;
    }
    let remembered = MAPPERS.insert(tgid, 0, 0).is_ok();
    // Another thread of the parent may be in the middle of mmap(2), with the mapping already there to inherit.
    let in_doubt = stops_at_mmap() && live_threads(parent).is_none_or(|threads| threads > 1);
    if in_doubt || !remembered {
        hold(tgid, Reason::UNKNOWN);
        tell();
    }
    Some(())
}

fn forget(task: Address) -> Option<()> {
    let (tgid, tid) = (process_of_task(task)?, thread_of_task(task)?);
    let thread = u64::from(tgid) << 32 | u64::from(tid);
    if CALLED.has(tid) {
        drop(READS.remove(tid));
        drop(CALLS.remove(thread));
    }
    drop(COPIERS.remove(thread));
    if live_threads(task)? == 0 {
        drop(MAPPERS.remove(tgid));
        drop(USER_STOPS.remove(tgid));
        // The agent waits for it no longer.
        if HELD.remove(tgid).is_ok() {
            tell();
        }
        drop(RELEASED.remove(tgid));
    }
    Some(())
}
