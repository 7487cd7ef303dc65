//! One touch of a watched file, as a program puts it into the ring buffer.

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

// The sum of the members: nothing hidden between or behind them.
const _: () = assert!(size_of::<Inode>() == 8 + 2 * 4);
const _: () = assert!(size_of::<Record>() == 4 * 8 + 4 * 4);

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya asks for this marker on what crosses into a map")]
mod pod {
    // SAFETY: repr(C), only integers, no padding (asserted above), Copy and 'static.
    unsafe impl aya::Pod for super::Inode {}
}
