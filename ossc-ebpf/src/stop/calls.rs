//! Entry and exit of every system call of the machine, passed on to the part that knows the call.
//!
//! At the raw tracepoints, never at those of single calls: a program there is left out on a processor on which any
//! task is in the middle of a change of any eBPF map (`trace_call_bpf` in kernel/trace/bpf_trace.c looks at
//! `bpf_prog_active`, which `bpf_disable_instrumentation` raises for a task that can be preempted), and a call that
//! is not seen is a reader that is not held. A raw one is left out only where it would interrupt itself.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use ossc_common::{
    CALL_IOCTL, CALL_MMAP, CALL_MREMAP, CALL_NUMBERS, CALL_OTHER, CALL_PREAD, CALL_PREADV, CALL_READ,
    CALL_READV, CALL_REMAP,
};

use crate::hold::current_thread;
use crate::kernel::{Address, member};
use crate::maps::{CALLED, setting};
use crate::{mapping, reads};

/// Set in the numbers of the x32 calls of x86-64, which are the same calls otherwise (`__X32_SYSCALL_BIT`).
const X32: u64 = 0x4000_0000;

/// The arguments of a system call that is being entered: a `struct pt_regs`.
/// A call that ends has them still, apart from the first.
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
    let number = ctx.arg::<u64>(1) & !X32;
    if number >= CALL_NUMBERS as u64 {
        return 0;
    }
    let call = setting!(calls[number as usize]);
    // Most calls of a machine end here.
    if call == CALL_OTHER {
        return 0;
    }
    let arguments = Arguments(ctx.arg(0));
    // Its numbers mean other calls.
    if arguments.is_narrow() {
        return 0;
    }
    match call {
        CALL_READ => reads::read(arguments),
        CALL_PREAD => reads::pread(arguments),
        CALL_READV => reads::readv(arguments),
        CALL_PREADV => reads::preadv(arguments),
        CALL_MMAP => mapping::mmap(arguments),
        CALL_MREMAP => mapping::mremap(arguments),
        CALL_REMAP => mapping::remap(),
        CALL_IOCTL => mapping::clone(arguments),
        _ => {}
    }
    0
}

/// TP_PROTO(struct pt_regs *regs, long ret): of whichever call, in a thread that has noted something at its entry.
#[raw_tracepoint]
pub(crate) fn stop_leave(ctx: RawTracePointContext) -> i32 {
    if CALLED.has(current_thread()) {
        reads::end();
        mapping::end(Arguments(ctx.arg(0)), ctx.arg(1));
    }
    0
}
