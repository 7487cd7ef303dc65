//! Entry and exit of every system call of the machine, passed on to the part that knows the call.
//!
//! At the raw tracepoints, never at those of single calls: a program there is left out on a processor on which any
//! task is in the middle of a change of any eBPF map (`trace_call_bpf` in kernel/trace/bpf_trace.c looks at
//! `bpf_prog_active`, which `bpf_disable_instrumentation` raises for a task that can be preempted), and a call that
//! is not seen is a reader that is not held. A raw one is left out only where it would interrupt itself.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::kernel::{Address, member};
use crate::maps::{setting, stops_at_mmap};
use crate::{mapping, reads};

/// Set in the numbers of the x32 calls of x86-64, which are the same calls otherwise (`__X32_SYSCALL_BIT`).
const X32: u64 = 0x4000_0000;

/// The arguments of a system call that is being entered: a `struct pt_regs`.
#[derive(Clone, Copy)]
pub(crate) struct Arguments(Address);

impl Arguments {
    /// Argument `N`, counted from 0.
    #[inline(always)]
    pub(crate) fn get<const N: usize>(self) -> u64 {
        member(self.0, setting!(registers.arguments[N])).unwrap_or(0)
    }

    /// Whether the call is one of a 32-bit program.
    #[inline(always)]
    pub(crate) fn is_narrow(self) -> bool {
        let word: u32 = member(self.0, setting!(registers.narrow_at)).unwrap_or(0);
        word & setting!(registers.narrow_mask) == setting!(registers.narrow_value)
    }
}

/// TP_PROTO(struct pt_regs *regs, long id), include/trace/events/syscalls.h.
#[raw_tracepoint]
pub(crate) fn stop_enter(ctx: RawTracePointContext) -> i32 {
    let call = (ctx.arg::<u64>(1) & !X32) as u32;
    let arguments = Arguments(ctx.arg(0));
    if call == setting!(calls.read) {
        reads::read(arguments);
    } else if call == setting!(calls.pread) {
        reads::pread(arguments);
    } else if call == setting!(calls.readv) {
        reads::readv(arguments);
    } else if call == setting!(calls.preadv) || call == setting!(calls.preadv2) {
        reads::preadv(arguments);
    } else if call == setting!(calls.mmap) && !arguments.is_narrow() {
        mapping::mmap(arguments);
    } else if call == setting!(calls.mremap) && !arguments.is_narrow() {
        mapping::mremap(arguments);
    } else if call == setting!(calls.remap_file_pages) && !arguments.is_narrow() {
        mapping::remap();
    } else if call == setting!(calls.ioctl) && !arguments.is_narrow() {
        mapping::clone(arguments);
    }
    0
}

/// TP_PROTO(struct pt_regs *regs, long ret): of whichever call, in a thread that has noted something at its entry.
#[raw_tracepoint]
pub(crate) fn stop_leave(_: RawTracePointContext) -> i32 {
    if stops_at_mmap() {
        reads::end();
    }
    mapping::end();
    0
}
