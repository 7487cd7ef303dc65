//! What a file takes of memory and of the disk, and giving it back. Driven by `store`; whether anybody still uses the
//! file is the caller's to know.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};

/// cachestat(2), Linux 6.5; the number is the same everywhere (include/uapi/asm-generic/unistd.h), and libc has it for
/// some machines only.
const SYS_CACHESTAT: libc::c_long = 451;

/// No file system has larger blocks or pages.
const BOUNDARY: u64 = 1 << 20;

/// `struct cachestat_range` of include/uapi/linux/mman.h; all zeros mean the whole file.
#[repr(C)]
#[derive(Default)]
struct Range {
    offset: u64,
    length: u64,
}

/// `struct cachestat`, in pages.
#[repr(C)]
#[derive(Default)]
struct CacheStat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Bytes of the file that are in the page cache; `None` where the kernel does not tell (before 6.5, or in a sandbox).
#[must_use]
pub fn cached_bytes(file: &File) -> Option<u64> {
    let (range, mut found) = (Range::default(), CacheStat::default());
    // SAFETY: both structs have the kernel's layout and live through the call; it writes the second one alone.
    let outcome =
        unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut found, 0) };
    Errno::result(outcome).ok()?;
    // SAFETY: takes a number, touches no memory of ours.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(found.cached.saturating_mul(u64::try_from(page).ok()?))
}

/// Takes the file out of the page cache, but for pages that are mapped or not on the disk yet (posix_fadvise(2)).
pub fn drop_cache(file: &File) -> io::Result<()> {
    Ok(posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

/// Gives all space of the file back, on the disk or in memory: it keeps its size, and reads as zeros (fallocate(2),
/// `FALLOC_FL_PUNCH_HOLE`). Descriptors and mappings that exist see that at once.
pub fn punch(file: &File, size: u64) -> io::Result<()> {
    // To a boundary behind the end: of a block that the range covers in part the kernel only zeroes the part.
    let size = i64::try_from(size.next_multiple_of(BOUNDARY)).map_err(|_| Errno::EFBIG)?;
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    if size == 0 {
        return Ok(());
    }
    loop {
        match fallocate(file, flags, 0, size) {
            Err(Errno::EINTR) => {}
            outcome => return Ok(outcome?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    const SIZE: usize = 4 << 20;

    #[test]
    fn space_and_memory_come_back() {
        for root in ["/var/tmp", "/dev/shm"] {
            let file = tempfile::tempfile_in(root).unwrap();
            file.write_all_at(&[7; SIZE], 0).unwrap();
            file.sync_all().unwrap();
            assert_eq!(cached_bytes(&file), Some(SIZE as u64), "{root}");
            drop_cache(&file).unwrap();
            let left = if root == "/dev/shm" { SIZE as u64 } else { 0 };
            assert_eq!(cached_bytes(&file), Some(left), "{root}");
            file.set_len(SIZE as u64 - 5).unwrap();
            punch(&file, SIZE as u64 - 5).unwrap();
            let about = file.metadata().unwrap();
            assert_eq!((about.len(), about.blocks()), (SIZE as u64 - 5, 0), "{root}");
        }
        punch(&tempfile::tempfile().unwrap(), 0).unwrap();
    }
}
