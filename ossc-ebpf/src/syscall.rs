//! Arguments and results of system calls, as their tracepoints hand them over.
//!
//! The layout is the same for all of them (`struct syscall_tp_t` in kernel/trace/trace_syscalls.c, printed in
//! /sys/kernel/tracing/events/syscalls/*/format): 8 bytes of trace entry, the call's number in the next 8, then
//! one 8-byte word per argument, or the one result. The kernel refuses to attach a program that reads beyond.

use aya_ebpf::{EbpfContext, programs::TracePointContext};

/// Where the arguments, or the result, begin.
const VALUES: usize = 16;
/// Linux returns errors as -4095..=-1 (`MAX_ERRNO` in include/linux/err.h).
const MAX_ERRNO: u64 = 4095;

/// Argument `N` of the call, counted from 0; only in programs at a `sys_enter_`.
#[inline(always)]
pub(crate) fn argument<const N: usize>(ctx: &TracePointContext) -> u64 {
    let address = ctx.as_ptr().cast::<u8>().wrapping_add(VALUES + N * size_of::<u64>());
    // SAFETY: the verifier has checked the offset against the program type, attaching checks it against the
    // tracepoint.
    unsafe { address.cast::<u64>().read() }
}

/// What the call returned, unless that is an error; only in programs at a `sys_exit_`.
pub(crate) fn result(ctx: &TracePointContext) -> Option<u64> {
    let result = argument::<0>(ctx);
    (result < u64::MAX - MAX_ERRNO + 1).then_some(result)
}
