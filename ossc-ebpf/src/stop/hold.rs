//! Holding a process: on the map first, then stopped, then told.
//!
//! A process that is on the map and not released for that moment is held, whatever it does: its next page fault
//! stops it (again) before the faulting instruction completes. So a SIGCONT by somebody else, a child forked in
//! the middle of another thread's mmap(2), or a thread that knows the address before mmap(2) returns get no
//! further than to the first page they have not touched yet. Who has been continued by somebody else and touches a
//! page that he is held for is killed there: a second SIGCONT takes a stop back while the page is there already, and
//! nobody takes back SIGKILL.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_send_signal_thread};
use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use ossc_common::{DOORBELL_BYTES, END_CONTINUED, END_NO_ROOM, Held};

use crate::maps::{DOORBELL, EVER_HELD, HELD, RELEASED};

/// Signal numbers of x86-64 and arm64 (include/uapi/asm-generic/signal.h).
pub(crate) const SIGKILL: u32 = 9;
pub(crate) const SIGSTOP: u32 = 19;

/// The running process.
pub(crate) fn current_process() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The running thread.
pub(crate) fn current_thread() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// What a process is held for.
#[derive(Clone, Copy)]
pub(crate) struct Reason {
    /// Addresses as in [`Held`].
    from: u64,
    to: u64,
    /// As in [`Held::copied`].
    copied: bool,
}

impl Reason {
    /// It is about to map something.
    pub(crate) const ANNOUNCED: Self = Self { from: u64::MAX, to: 0, copied: false };
    /// What it has mapped is not known.
    pub(crate) const UNKNOWN: Self = Self { from: 0, to: u64::MAX, copied: false };

    /// It has mapped that many bytes at the address that a system call has returned, or an errno.
    pub(crate) fn mapped(address: u64, length: u64, copied: bool) -> Self {
        /// Of x86-64 and RISC-V, where there are `stop_fault`s; a mapping has all of its last page.
        const PAGE: u64 = 4096;
        const ERRNO_MAX: u64 = 4095;
        if address >= 0_u64.wrapping_sub(ERRNO_MAX) {
            return Self { copied, ..Self::ANNOUNCED };
        }
        let length = length.saturating_add(PAGE - 1) & !(PAGE - 1);
        Self { from: address, to: address.saturating_add(length), copied }
    }
}

/// Puts the running process, or a child that has not run yet, on the map of those held, from this moment on. False when
/// there is no room.
///
/// Nobody else is ever put there: one that ends meanwhile would leave its entry behind its end (`stop_exit`).
pub(crate) fn hold(tgid: u32, reason: Reason) -> bool {
    if let Some(held) = HELD.get_ptr_mut(tgid) {
        hold_anew(tgid, held, reason);
        return true;
    }
    let Reason { from, to, copied } = reason;
    let held = Held { at_ns: now(), again: 0, copied: copied.into(), continued: 0, from, to };
    EVER_HELD.add(tgid);
    HELD.insert(tgid, held, 0).is_ok()
}

/// Holds a process on the map from this moment on.
fn hold_anew(tgid: u32, held: *mut Held, reason: Reason) {
    let at_ns = now();
    let Reason { from, to, copied } = reason;
    // What came before it was held is no concern of ours.
    let is_new = !is_held(tgid);
    // SAFETY: whole words of an entry that at worst was removed meanwhile. The moment comes last, so that the agent,
    // which reads it first, takes no older words for those of this one.
    unsafe {
        if is_new {
            (*held).again = 0;
            (*held).copied = 0;
            (*held).continued = 0;
            (*held).from = u64::MAX;
            (*held).to = 0;
        }
        if copied {
            (*held).copied = 1;
        }
        if from < (*held).from {
            (*held).from = from;
        }
        if to > (*held).to {
            (*held).to = to;
        }
        (&raw mut (*held).at_ns).write_volatile(at_ns);
    }
}

fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Somebody else has sent a held process a SIGCONT. Held anew, so that the agent looks whether it has stopped again.
pub(crate) fn continued(tgid: u32) {
    // It may be ending on another processor.
    let Some(held) = HELD.get_ptr_mut(tgid) else { return };
    // SAFETY: as in `hold_anew`.
    unsafe {
        (*held).again = 0;
        (*held).continued = 1;
    }
    hold_anew(tgid, held, Reason::ANNOUNCED);
    tell();
}

/// Whether a process is held now.
pub(crate) fn is_held(tgid: u32) -> bool {
    if !EVER_HELD.has(tgid) {
        return false;
    }
    let Some(held) = entry(tgid) else { return false };
    // SAFETY: written whole by user space; an entry replaced meanwhile is seen next time.
    unsafe { RELEASED.get(tgid) }.is_none_or(|released| released.at_ns != held.at_ns)
}

/// What is on the map of a process.
pub(crate) fn entry(tgid: u32) -> Option<Held> {
    // SAFETY: torn reads of its words at worst mix two moments in which it was held.
    unsafe { HELD.get(tgid) }.copied()
}

/// Stops the running process before this thread is back in user mode, and tells: nobody else would take the stop back.
pub(crate) fn stop() {
    send(SIGSTOP);
    tell();
}

/// Ends the running process, because there is no room on a map to hold it.
pub(crate) fn kill() {
    end(END_NO_ROOM);
}

fn end(why: u32) {
    send(SIGKILL);
    ring(u64::from(why) << 32 | u64::from(current_process()));
}

/// To this thread, never to the process: a signal for the process that another thread has not taken from the queue
/// yet makes the kernel drop the second one (`legacy_queue` in kernel/signal.c) without telling the thread that sent
/// it, which then goes back to user mode as if nothing had happened.
fn send(signal: u32) {
    // SAFETY: a helper that takes a number and concerns the running thread only.
    unsafe { bpf_send_signal_thread(signal) };
}

/// Has the agent look at the map. Where half of the ring is full there are wake-ups in it that nobody took yet; the rest
/// is for what must be told.
pub(crate) fn tell() {
    if DOORBELL.query(u64::from(BPF_RB_AVAIL_DATA)) < u64::from(DOORBELL_BYTES / 2) {
        ring(0);
    }
}

fn ring(what: u64) {
    drop(DOORBELL.output::<u64>(&what, u64::from(BPF_RB_FORCE_WAKEUP)));
}

/// TP_PROTO(unsigned long address, struct pt_regs *regs, unsigned long error_code),
/// arch/x86/include/asm/trace/exceptions.h: in the thread that faults, before the fault is handled.
#[raw_tracepoint]
pub(crate) fn stop_fault(ctx: RawTracePointContext) -> i32 {
    let tgid = current_process();
    if is_held(tgid) {
        let address: u64 = ctx.arg(0);
        let is_looking = |held: Held| held.continued != 0 && held.from <= address && address < held.to;
        if entry(tgid).is_some_and(is_looking) {
            end(END_CONTINUED);
        } else {
            stop();
        }
    }
    0
}
