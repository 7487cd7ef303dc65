//! Holding a process: on the map first, then stopped, then told.
//!
//! A process that is on the map and not released for that moment is held, whatever it does: its next page fault
//! stops it (again) before the faulting instruction completes. So a SIGCONT by somebody else, a child forked in
//! the middle of another thread's mmap(2), or a thread that knows the address before mmap(2) returns get no
//! further than to the first page they have not touched yet.

use aya_ebpf::bindings::BPF_RB_FORCE_WAKEUP;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_send_signal_thread};
use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use ossc_common::Held;

use crate::maps::{DOORBELL, HELD, RELEASED};

/// Signal numbers of x86-64 and arm64 (include/uapi/asm-generic/signal.h).
pub(crate) const SIGKILL: u32 = 9;
pub(crate) const SIGSTOP: u32 = 19;

/// The running process.
pub(crate) fn current_process() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Puts a process on the map of those held, from this moment on. False when there is no room.
pub(crate) fn hold(tgid: u32) -> bool {
    hold_with(tgid, 0)
}

/// The same; `copied` as in [`Held::copied`].
pub(crate) fn hold_with(tgid: u32, copied: u64) -> bool {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // What came before it was held is no concern of ours.
    let before = if is_held(tgid) { entry(tgid) } else { None };
    let before = before.unwrap_or(Held { at_ns: now, again: 0, copied: 0 });
    let held = Held { at_ns: now, again: before.again, copied: before.copied | copied };
    HELD.insert(tgid, held, 0).is_ok()
}

/// Whether a process is held now.
pub(crate) fn is_held(tgid: u32) -> bool {
    let Some(held) = entry(tgid) else { return false };
    // SAFETY: written whole by user space; an entry replaced meanwhile is seen next time.
    unsafe { RELEASED.get(tgid) }.is_none_or(|released| released.at_ns != held.at_ns)
}

/// What is on the map of a process.
pub(crate) fn entry(tgid: u32) -> Option<Held> {
    // SAFETY: torn reads of its words at worst mix two moments in which it was held.
    unsafe { HELD.get(tgid) }.copied()
}

/// Stops the running process before this thread is back in user mode.
pub(crate) fn stop() {
    send(SIGSTOP);
}

/// Ends the running process, which cannot be held.
pub(crate) fn kill() {
    send(SIGKILL);
}

/// To this thread, never to the process: a signal for the process that another thread has not taken from the queue
/// yet makes the kernel drop the second one (`legacy_queue` in kernel/signal.c) without telling the thread that sent
/// it, which then goes back to user mode as if nothing had happened.
fn send(signal: u32) {
    // SAFETY: a helper that takes a number and concerns the running thread only.
    unsafe { bpf_send_signal_thread(signal) };
}

/// Has the agent look at the map. A full ring has a wake-up in it that nobody took yet.
pub(crate) fn tell() {
    drop(DOORBELL.output::<u64>(&0_u64, u64::from(BPF_RB_FORCE_WAKEUP)));
}

/// TP_PROTO(unsigned long address, struct pt_regs *regs, unsigned long error_code),
/// arch/x86/include/asm/trace/exceptions.h: in the thread that faults, before the fault is handled.
#[raw_tracepoint]
pub(crate) fn stop_fault(_: RawTracePointContext) -> i32 {
    if is_held(current_process()) {
        stop();
    }
    0
}
