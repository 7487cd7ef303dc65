//! What the stop gate's programs and the agent tell each other, all of it in maps that outlive either.
//!
//! Each map has one writer: the programs write [`Held`] and [`ReadCall`], the agent writes [`Released`] and the
//! control words. Whether a process is held is the comparison of two moments, so neither side ever has to change
//! what the other wrote.

use crate::{Inode, Offsets};

/// A process that the programs stopped, or are about to.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// `bpf_ktime_get_ns` of the last event that calls for a look at the process. It is held until the agent has
    /// released it for this very moment.
    pub at_ns: u64,
    /// A job-control signal (SIGTSTP, SIGTTIN, SIGTTOU) that came while it was held and that our SIGCONT discards;
    /// 0 for none.
    pub again: u64,
    /// 1 when it may have copied missing bytes before it was stopped: it asked for a private, writable mapping with
    /// its pages.
    pub copied: u64,
    /// 1 when somebody else has sent it a SIGCONT while it was held.
    pub continued: u64,
    /// First address of the memory it is held for; behind [`Held::to`] when there is none yet.
    pub from: u64,
    /// The end of that memory: what lies between two mappings is in it, too.
    pub to: u64,
}

/// What the agent has decided of a process.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released {
    /// The [`Held::at_ns`] it was released for.
    pub at_ns: u64,
    /// 1 when it has been sent its SIGCONT, so that an agent that comes after one that died need not.
    pub done: u64,
}

/// A read call of a gated file between its entry and its exit.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadCall {
    /// The file.
    pub inode: Inode,
    /// First byte, or [`AT_POSITION`].
    pub offset: u64,
    /// Bytes asked for; `u64::MAX` when they could not be counted.
    pub length: u64,
    /// The descriptor of the call, for its position.
    pub descriptor: u32,
    /// The thread's process, in the first pid namespace.
    pub tgid: u32,
}

/// The settings of one load of the stop gate's programs.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSettings {
    /// Where the running kernel keeps the members the programs follow.
    pub offsets: Offsets,
    /// Where the arguments of system calls are.
    pub registers: Registers,
    /// 1 when mmap(2) stops its process, 0 when only a mapping that grows does.
    pub at_mmap: u32,
    /// What a system call is, by its number: one of the `CALL_` constants.
    pub calls: [u8; CALL_NUMBERS],
}

/// System calls have numbers below this (asm/unistd.h of x86-64 and arm64); what is above is none that the programs know.
pub const CALL_NUMBERS: usize = 512;
/// None that the programs look at.
pub const CALL_OTHER: u8 = 0;
/// mmap(2).
pub const CALL_MMAP: u8 = 1;
/// mremap(2).
pub const CALL_MREMAP: u8 = 2;
/// remap_file_pages(2).
pub const CALL_REMAP: u8 = 3;
/// ioctl(2).
pub const CALL_IOCTL: u8 = 4;
/// read(2).
pub const CALL_READ: u8 = 5;
/// pread64(2).
pub const CALL_PREAD: u8 = 6;
/// readv(2).
pub const CALL_READV: u8 = 7;
/// preadv(2) and preadv2(2).
pub const CALL_PREADV: u8 = 8;

/// Byte offsets in the running kernel's `struct pt_regs`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// The arguments of a system call, from the first on.
    pub arguments: [u32; 6],
    /// A word that tells 32-bit programs, whose calls have other numbers: they are of one when this word,
    pub narrow_at: u32,
    /// of which these bits are looked at,
    pub narrow_mask: u32,
    /// has this value.
    pub narrow_value: u32,
}

impl Registers {
    /// Before the loader has found them.
    pub const UNKNOWN: Self = Self { arguments: [0; 6], narrow_at: 0, narrow_mask: 0, narrow_value: 0 };
}

/// [`ReadCall::offset`] of a call that reads at the descriptor's position.
pub const AT_POSITION: u64 = u64::MAX;

/// Control word: process id of the agent, which is never stopped.
pub const CONTROL_OWN: u32 = 0;
/// Control word: [`StopSettings::at_mmap`], for an agent that takes the programs over.
pub const CONTROL_AT_MMAP: u32 = 1;
/// Control word: [`STOP_VERSION`], so that an agent does not take over programs of another version.
pub const CONTROL_VERSION: u32 = 2;
/// Number of control words.
pub const CONTROLS: u32 = 3;

/// Raised when the maps change their meaning.
pub const STOP_VERSION: u32 = 3;
/// Processes that are held, or have mapped a gated file, at a time: half of the default kernel.pid_max.
pub const STOP_PROCESSES_MAX: u32 = 16384;
/// Threads that can be inside a call of a gated file at a time.
pub const STOP_CALLS_MAX: u32 = 16384;
/// Processes whose SIGSTOP by somebody else is remembered; the oldest is forgotten beyond that.
pub const USER_STOPS_MAX: u32 = 4096;
/// Why the programs have killed a process, in the upper half of what wakes the agent, with the process below: there was
/// no room to hold it.
pub const END_NO_ROOM: u32 = 1;
/// Somebody else had continued it, and it touched bytes that it was held for.
pub const END_CONTINUED: u32 = 2;
/// Bytes of the ring buffer that wakes the agent: a page, the least the kernel takes.
pub const DOORBELL_BYTES: u32 = 4096;

const _: () = assert!(size_of::<Held>() == 6 * 8);
const _: () = assert!(size_of::<Released>() == 2 * 8);
const _: () = assert!(size_of::<ReadCall>() == size_of::<Inode>() + 2 * 8 + 2 * 4);
const _: () = assert!(size_of::<StopSettings>() == size_of::<Offsets>() + (9 + 1) * 4 + CALL_NUMBERS);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya asks for this marker on what crosses into a map")]
mod pod {
    // SAFETY: repr(C), only integers, no padding (asserted above), Copy and 'static.
    unsafe impl aya::Pod for super::Held {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Released {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ReadCall {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::StopSettings {}
}
