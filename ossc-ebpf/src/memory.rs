//! What becomes of the memory into which watched files are mapped: it is unmapped, moved, grown, copied to a child,
//! left behind by an exec; and the page faults in it, by address. User space, which keeps the mappings, makes accesses
//! of them.
//!
//! Only processes that have mapped a watched file are looked at, and they are in one small map: for all others every
//! program here is one look-up.

use aya_ebpf::{
    macros::{raw_tracepoint, tracepoint},
    programs::{RawTracePointContext, TracePointContext},
};
use ossc_common::{CHANGE_END, CHANGE_FORK, CHANGE_REMAP, CHANGE_UNMAP, KIND_PAGE_FAULT, Span};

use crate::filter::Thread;
use crate::maps::{MAPPED, REMAPS_IN_FLIGHT, send, send_change, setting};
use crate::syscall;

/// At the entry: before another thread can get the same addresses for something else.
#[tracepoint]
pub(crate) fn munmap_enter(ctx: TracePointContext) -> u32 {
    unmap(syscall::argument::<0>(&ctx), syscall::argument::<1>(&ctx));
    0
}

#[tracepoint]
pub(crate) fn mremap_enter(ctx: TracePointContext) -> u32 {
    let _ = remember(&ctx);
    0
}

#[tracepoint]
pub(crate) fn mremap_exit(ctx: TracePointContext) -> u32 {
    let _ = remap(&ctx);
    0
}

/// TP_PROTO(struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm), include/trace/events/sched.h.
#[raw_tracepoint]
pub(crate) fn process_exec(_ctx: RawTracePointContext) -> i32 {
    end(Thread::current().tgid());
    0
}

/// TP_PROTO(unsigned long address, struct pt_regs *regs, unsigned long error_code), exceptions.h. For faults of user
/// code, and of the kernel on behalf of a call that was given a mapped buffer.
#[raw_tracepoint]
pub(crate) fn page_fault(ctx: RawTracePointContext) -> i32 {
    let _ = fault(ctx.arg(0), ctx.arg(2));
    0
}

/// A watched file was mapped.
pub(crate) fn widen(tgid: u32, address: u64, length: u64) {
    let end = address.saturating_add(length);
    match MAPPED.get_ptr_mut(tgid) {
        // SAFETY: two threads of the process may be here at once; one mapping is then not seen to be touched.
        Some(span) => unsafe {
            if address < (*span).begin {
                (*span).begin = address;
            }
            if end > (*span).end {
                (*span).end = end;
            }
        },
        None => drop(MAPPED.insert(tgid, Span { begin: address, end }, 0)),
    }
}

/// The running process unmaps something, by munmap(2) or by mapping something else over it.
pub(crate) fn unmap(address: u64, length: u64) {
    let thread = Thread::current();
    let page = 1_u64 << setting!(page_shift);
    // The kernel refuses what does not begin at a page, and unmaps whole pages.
    if concerns(thread.tgid(), address, length) && address & (page - 1) == 0 {
        send_change(&thread.changes(address, length, CHANGE_UNMAP));
    }
}

/// A child begins with its parent's mappings.
pub(crate) fn copy(parent: u32, child: u32) {
    // SAFETY: a span that another thread changes meanwhile is widened by one mapping more or less.
    if let Some(span) = unsafe { MAPPED.get(parent) }.copied() {
        let mut change = Thread::current().changes(0, 0, CHANGE_FORK);
        (change.from, change.tgid, change.tid) = (parent.into(), child, child);
        if MAPPED.insert(child, span, 0).is_ok() {
            send_change(&change);
        }
    }
}

/// The process has no mapping any more.
pub(crate) fn end(tgid: u32) {
    if MAPPED.remove(tgid).is_ok() {
        let mut change = Thread::current().changes(0, 0, CHANGE_END);
        change.tgid = tgid;
        send_change(&change);
    }
}

fn remember(ctx: &TracePointContext) -> Option<()> {
    let thread = Thread::current();
    let (from, from_length) = (syscall::argument::<0>(ctx), syscall::argument::<1>(ctx));
    if !concerns(thread.tgid(), from, from_length) {
        return None;
    }
    let mut change = thread.changes(0, syscall::argument::<2>(ctx), CHANGE_REMAP);
    (change.from, change.from_length) = (from, from_length);
    REMAPS_IN_FLIGHT.insert(thread.id, change, 0).ok()
}

fn remap(ctx: &TracePointContext) -> Option<()> {
    let thread = Thread::current();
    // SAFETY: only this thread writes the entry, and it is here.
    let mut change = *unsafe { REMAPS_IN_FLIGHT.get(thread.id) }?;
    REMAPS_IN_FLIGHT.remove(thread.id).ok()?;
    change.address = syscall::result(ctx)?;
    widen(change.tgid, change.address, change.length);
    send_change(&change);
    Some(())
}

fn fault(address: u64, error: u64) -> Option<()> {
    let thread = Thread::current();
    if !concerns(thread.tgid(), address, 1) {
        return None;
    }
    let mut record = thread.touches(u32::MAX, KIND_PAGE_FAULT);
    (record.address, record.length) = (address, error);
    send(&record);
    Some(())
}

/// Whether the range may hold mappings of watched files.
fn concerns(tgid: u32, address: u64, length: u64) -> bool {
    // SAFETY: as in `copy`.
    let span = unsafe { MAPPED.get(tgid) };
    span.is_some_and(|span| address < span.end && span.begin < address.saturating_add(length))
}
