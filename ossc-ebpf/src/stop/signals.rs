//! Signals of others that concern a held process: a stop that must survive our release, and a continuation that
//! must not set it free.
//!
//! TP_PROTO(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result) in
//! include/trace/events/signal.h; in the sender, while the target's signals are locked.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::hold::{self, SIGSTOP, current_process, is_held, stop};
use crate::kernel::{Address, live_threads, process_of_task};
use crate::maps::{HELD, USER_STOPS, is_own};

const SIGCHLD: u32 = 17;
const SIGCONT: u32 = 18;
const SIGTSTP: u32 = 20;
const SIGTTOU: u32 = 22;
/// `SEND_SIG_PRIV` (include/linux/sched/signal.h): sent by the kernel, as `bpf_send_signal` does.
const BY_KERNEL: u64 = 1;

#[raw_tracepoint]
pub(crate) fn stop_signal(ctx: RawTracePointContext) -> i32 {
    let signal: u64 = ctx.arg(0);
    match signal as u32 {
        SIGSTOP if ctx.arg::<u64>(1) != BY_KERNEL && !is_own(current_process()) => stopped(ctx.arg(2)),
        SIGTSTP..=SIGTTOU => job_control(ctx.arg(2), signal),
        SIGCONT if !is_own(current_process()) => continued(ctx.arg(2)),
        // A thread that goes on tells its parent first (`get_signal`, CLD_CONTINUED).
        SIGCHLD if is_held(current_process()) => stop(),
        _ => {}
    }
    0
}

fn stopped(task: Address) {
    let Some(tgid) = process_of_task(task) else { return };
    drop(USER_STOPS.insert(tgid, 0, 0));
    // One that has ended and was not waited for yet. If it ends only now, `stop_exit` finds the entry.
    if live_threads(task) == Some(0) {
        drop(USER_STOPS.remove(tgid));
    }
}

fn job_control(task: Address, signal: u64) {
    if let Some(tgid) = process_of_task(task)
        && is_held(tgid)
        && let Some(held) = HELD.get_ptr_mut(tgid)
    {
        // SAFETY: a whole word of an entry that at worst was removed meanwhile.
        unsafe { (*held).again = signal };
    }
}

fn continued(task: Address) {
    let Some(tgid) = process_of_task(task) else { return };
    if USER_STOPS.get_ptr(tgid).is_some() {
        drop(USER_STOPS.remove(tgid));
    }
    if is_held(tgid) {
        hold::continued(tgid);
    }
}
