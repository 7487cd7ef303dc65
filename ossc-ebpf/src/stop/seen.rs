//! Whether a thread or process has ever been on a map, told without a look at the map: where every process of the machine
//! comes by all the time, a few nanoseconds instead of some forty.
//!
//! A mark is made before the first entry and stays for as long as the programs do, in memory of their object: it says
//! too much about an id that ends in the same bits, or is used again, which then costs a look at the map. Those that
//! are marked have mapped or read a gated file; all others leave here.

use core::cell::UnsafeCell;

/// Ids come one after the other, so they share a mark with none of the next so many.
const MARKS: usize = 1 << 16;

pub(crate) struct Seen(UnsafeCell<[u8; MARKS]>);

// SAFETY: its bytes are only ever loaded whole, and set to the same value by whoever sets them.
unsafe impl Sync for Seen {}

impl Seen {
    pub(crate) const NOBODY: Self = Self(UnsafeCell::new([0; MARKS]));

    /// Whether there may be entries of this id. Of another thread than the running one only what has been there since
    /// before that one's latest look at the memory they share.
    #[inline(always)]
    pub(crate) fn has(&self, id: u32) -> bool {
        // SAFETY: a byte of a static.
        unsafe { self.mark(id).read_volatile() != 0 }
    }

    /// From now on there may be; to be said before there is.
    #[inline(always)]
    pub(crate) fn add(&self, id: u32) {
        // SAFETY: as above. (LLVM has no atomic store for this machine.)
        unsafe { self.mark(id).write_volatile(1) };
    }

    #[inline(always)]
    fn mark(&self, id: u32) -> *mut u8 {
        self.0.get().cast::<u8>().wrapping_add(id as usize % MARKS)
    }
}
