//! What the programs put into the ring buffer: touches of watched files, and changes of the memory they may be mapped
//! in. An entry of the ring is one of the two, told apart by its size.

/// What names a file inside the kernel: the key of the map of watched files.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Inode {
    /// `inode.i_ino`.
    pub number: u64,
    /// `super_block.s_dev` in the kernel's own encoding: major << 20 | minor (include/linux/kdev_t.h).
    pub device: u32,
    /// Zero: keys are compared byte by byte.
    pub padding: u32,
}

impl Inode {
    /// The inode `number` of the file system whose `s_dev` is `device`.
    #[must_use]
    pub const fn new(device: u32, number: u64) -> Self {
        Self { number, device, padding: 0 }
    }
}

/// A touch of a watched file by a thread of the target.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// `bpf_ktime_get_ns`, which is `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// First byte touched.
    pub offset: u64,
    /// Bytes touched from there; 0 for an open.
    pub length: u64,
    /// Where the mapping begins in the reader's memory, or where it faulted; else 0.
    pub address: u64,
    /// The number under which user space watches the file.
    pub file: u32,
    /// One of the `KIND_` values.
    pub kind: u32,
    /// Thread group (process) id in the first pid namespace.
    pub tgid: u32,
    /// Thread id in the first pid namespace.
    pub tid: u32,
}

/// The file was opened.
pub const KIND_OPEN: u32 = 1;
/// The range was mapped.
pub const KIND_MAP: u32 = 2;
/// The range was asked for by a read call.
pub const KIND_READ: u32 = 3;
/// The range was touched through a mapping.
pub const KIND_FAULT: u32 = 4;
/// A page fault somewhere near the mappings of watched files; `address` says where, `length` is the processor's
/// error code, `file` is nothing. User space knows the mappings.
pub const KIND_PAGE_FAULT: u32 = 5;
/// A call that began at `at_ns` reached the file, or ended, only `length` nanoseconds later, because the file is under
/// somebody's fanotify permission mark.
pub const KIND_STALL: u32 = 6;

/// A part of a process's memory.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub begin: u64,
    /// Behind the last one.
    pub end: u64,
}

/// A change of a process's memory that may concern mappings of watched files. User space, which knows the
/// mappings, tells which.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// `bpf_ktime_get_ns`, which is `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Where the change begins in the process's memory.
    pub address: u64,
    /// Bytes from there.
    pub length: u64,
    /// Of a remap: where the mapping began before. Of a fork: the parent process.
    pub from: u64,
    /// Of a remap: its length before.
    pub from_length: u64,
    /// One of the `CHANGE_` values.
    pub kind: u32,
    /// Process id in the first pid namespace; of a fork, the child's.
    pub tgid: u32,
    /// Thread id in the first pid namespace.
    pub tid: u32,
    /// Zero.
    pub padding: u32,
}

/// Nothing is mapped at the range any more.
pub const CHANGE_UNMAP: u32 = 1;
/// What was mapped at `from` is mapped at the range now.
pub const CHANGE_REMAP: u32 = 2;
/// The process begins with the mappings of process `from`.
pub const CHANGE_FORK: u32 = 3;
/// The process has ended, or has become another program.
pub const CHANGE_END: u32 = 4;

// The sum of the members: nothing hidden between or behind them.
const _: () = assert!(size_of::<Inode>() == 8 + 2 * 4);
const _: () = assert!(size_of::<Record>() == 4 * 8 + 4 * 4);
const _: () = assert!(size_of::<Change>() == 5 * 8 + 4 * 4);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya asks for this marker on what crosses into a map")]
mod pod {
    // SAFETY: repr(C), only integers, no padding (asserted above), Copy and 'static.
    unsafe impl aya::Pod for super::Inode {}
    // SAFETY: repr(C), only integers, no padding, Copy and 'static.
    unsafe impl aya::Pod for super::Span {}
}
