//! Memory that outlives the process which writes it: a memfd mapped shared, used as 64-bit words.
//!
//! Driven by `keeper::Record`, which says what the words mean. Stores become visible to whoever maps the
//! memory next in the order in which they were made, whenever the writing process is killed. A word that
//! does not exist reads as 0 and takes no store.

use std::ffi::CStr;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Bytes of a word.
pub const WORD: usize = size_of::<u64>();

/// The mapping, and its descriptor to pass on.
#[derive(Debug)]
pub struct Memory {
    fd: OwnedFd,
    start: NonNull<u64>,
    words: usize,
}

// SAFETY: the memory is only reached through atomics and by the kernel, from any thread alike.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// New memory of so many words, all 0. Pages take memory when they are first written.
    pub fn create(name: &CStr, words: usize) -> io::Result<Self> {
        let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC)?;
        let bytes = words.checked_mul(WORD).and_then(|bytes| i64::try_from(bytes).ok());
        nix::unistd::ftruncate(&fd, bytes.ok_or(Errno::EFBIG)?)?;
        Self::map(fd)
    }

    /// The memory behind a descriptor, as long as it is.
    pub fn map(fd: OwnedFd) -> io::Result<Self> {
        let bytes = usize::try_from(nix::sys::stat::fstat(&fd)?.st_size).map_err(|_| Errno::EFBIG)?;
        let length = NonZeroUsize::new(bytes).ok_or(Errno::EINVAL)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; it replaces nothing.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, &fd, 0) }?;
        Ok(Self { fd, start: start.cast(), words: bytes / WORD })
    }

    /// How many words there are.
    #[must_use]
    pub fn words(&self) -> usize {
        self.words
    }

    /// One word, with all stores made before it.
    #[must_use]
    pub fn load(&self, at: usize) -> u64 {
        self.word(at).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Stores one word after all that was stored before.
    pub fn store(&self, at: usize, value: u64) {
        if let Some(word) = self.word(at) {
            word.store(value, Ordering::Release);
        }
    }

    /// One read(2) whose bytes the kernel puts straight into the memory, up to `bytes` from word `at` on.
    pub fn read_into(&self, from: BorrowedFd<'_>, at: usize, bytes: usize) -> io::Result<usize> {
        let end = bytes.div_ceil(WORD).checked_add(at).filter(|end| *end <= self.words);
        let Some(start) = self.word(at).filter(|_| end.is_some()) else {
            return Err(Errno::EFAULT.into());
        };
        // SAFETY: `at` and `bytes` were checked to lie in the mapping, which only atomics look into.
        let filled = unsafe { libc::read(from.as_raw_fd(), start.as_ptr().cast(), bytes) };
        Ok(usize::try_from(Errno::result(filled)?).unwrap_or(0))
    }

    fn word(&self, at: usize) -> Option<&AtomicU64> {
        if at >= self.words {
            return None;
        }
        // SAFETY: `at` is below the number of words mapped.
        let word = unsafe { self.start.add(at) };
        // SAFETY: it is mapped for as long as `self` lives, aligned, and only used through atomics.
        Some(unsafe { AtomicU64::from_ptr(word.as_ptr()) })
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping of `map`, to which no reference is left.
        let unmapped = unsafe { munmap(self.start.cast(), self.words * WORD) };
        debug_assert_eq!(unmapped, Ok(()), "munmap of an own mapping");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn another_mapping_sees_the_same_words() {
        let memory = Memory::create(c"test", 16).unwrap();
        memory.store(3, 77);
        memory.store(16, 1);
        let (from, mut into) = std::io::pipe().unwrap();
        into.write_all(&5u64.to_ne_bytes()).unwrap();
        assert_eq!(memory.read_into(from.as_fd(), 15, 8).unwrap(), 8);
        assert!(memory.read_into(from.as_fd(), 15, 9).is_err(), "it would end behind the memory");
        let other = Memory::map(memory.as_fd().try_clone_to_owned().unwrap()).unwrap();
        drop(memory);
        assert_eq!((other.words(), other.load(3), other.load(15), other.load(16)), (16, 77, 5, 0));
    }
}
