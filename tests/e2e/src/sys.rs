//! The only `unsafe` of the test harness: reads of the kinds that the standard library and nix do not offer as
//! safe calls (mappings, preadv2 flags, io_uring), and two calls about processes.
//!
//! Driven by the reader binary. Every call gives back the plain errno, because the errno that a held reader
//! ends with is what the tests compare. Nothing here retries or verifies; the reader does.
#![expect(unsafe_code, reason = "system calls without a safe wrapper are gathered in this file")]

use std::fs::File;
use std::io::IoSliceMut;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::NonNull;

use io_uring::{IoUring, opcode, types};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::mman::{
    MRemapFlags, MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, mremap, munmap,
};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// A read-only file mapping. Its bytes are only ever copied out, never lent, since the file may be written to
/// by another process while it is mapped.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<std::ffi::c_void>,
    length: NonZeroUsize,
}

impl Mapping {
    /// Maps `length` bytes from `offset`, a multiple of the page size, with `flags` (private or shared, populate).
    pub fn new(file: &File, offset: i64, length: NonZeroUsize, flags: MapFlags) -> Result<Self, Errno> {
        // SAFETY: no address is asked for, so the kernel places the mapping where nothing else is.
        let start = unsafe { mmap(None, length, ProtFlags::PROT_READ, flags, file, offset) }?;
        Ok(Self { start, length })
    }

    /// Maps `length` bytes, more than before, at the same place of the file, wherever the kernel has room.
    pub fn grow(&mut self, length: NonZeroUsize) -> Result<(), Errno> {
        let (old, may_move) = (self.length.get(), MRemapFlags::MREMAP_MAYMOVE);
        // SAFETY: the range is exactly the mapping that `self` owns, to which no reference exists.
        self.start = unsafe { mremap(self.start, old, length.get(), may_move, None) }?;
        self.length = length;
        Ok(())
    }

    /// MADV_POPULATE_READ over all of it: prefaults every page, reading where needed.
    pub fn populate(&self) -> Result<(), Errno> {
        // SAFETY: the range is exactly the mapping that `self` owns, and this advice changes no byte of it.
        unsafe { madvise(self.start, self.length.get(), MmapAdvise::MADV_POPULATE_READ) }
    }

    /// Copies the bytes from `at` on into `out`, by ordinary page faults. `None` if they are not all mapped.
    pub fn copy(&self, at: usize, out: &mut [u8]) -> Option<()> {
        if at.checked_add(out.len())? > self.length.get() {
            return None;
        }
        let from = self.start.as_ptr().cast::<u8>().wrapping_add(at);
        // SAFETY: `at + out.len()` was checked to lie within the mapping, and `out` is memory of this process
        // that cannot overlap it.
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) };
        Some(())
    }

    /// The same in a child made by fork(2), which inherits the mapping. ECHILD when it was killed.
    pub fn copy_in_child(&self, at: usize, out: &mut [u8]) -> Result<(), Errno> {
        let Some(length) = NonZeroUsize::new(out.len()) else { return Ok(()) };
        let (writable, shared) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        // SAFETY: no address is asked for, so the kernel places the mapping where nothing else is.
        let start = unsafe { mmap_anonymous(None, length, writable, shared) }?;
        let between = Mapping { start, length };
        // SAFETY: the child of a process with threads copies bytes and exits, both without a lock or an allocation.
        let child = Errno::result(unsafe { libc::fork() })?;
        if child == 0 {
            // SAFETY: the mapping is writable, of this length, and no other reference to it exists.
            let place = unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast(), length.get()) };
            let status = i32::from(self.copy(at, place).is_none());
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status) };
        }
        loop {
            match waitpid(Pid::from_raw(child), None) {
                Ok(WaitStatus::Exited(_, 0)) => return between.copy(0, out).ok_or(Errno::EFAULT),
                Ok(_) => return Err(Errno::ECHILD),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the mapping that `self` owns, and no reference into it exists.
        let result = unsafe { munmap(self.start, self.length.get()) };
        debug_assert_eq!(result, Ok(()), "munmap of an own mapping");
    }
}

/// preadv2(2) with `flags` such as `RWF_NOWAIT`.
pub fn preadv2(file: &File, buffers: &mut [IoSliceMut<'_>], offset: i64, flags: i32) -> Result<usize, Errno> {
    let count = i32::try_from(buffers.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `IoSliceMut` has the layout of `iovec` on Unix by the standard library's guarantee, and the slice
    // holds `count` of them for the length of the call.
    let got = unsafe { libc::preadv2(file.as_raw_fd(), buffers.as_ptr().cast(), count, offset, flags) };
    usize::try_from(Errno::result(got)?).map_err(|_| Errno::EINVAL)
}

/// Has the kernel kill the command's process when the thread that starts it ends, so that a killed test leaves
/// nothing running.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec the closure makes one system call, prctl(2), and allocates nothing.
    unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) }
}

/// The lowest number of the duplicates made for [`give`]: above those that a test has open otherwise.
const HIGH: RawFd = 4096;

/// Has the command's process start with these descriptors as 3, 4 and so on, as a service manager's children do
/// (sd_listen_fds(3)).
pub fn give<'c>(command: &'c mut Command, descriptors: &[impl AsFd]) -> Result<&'c mut Command, Errno> {
    let high = descriptors.iter().map(|fd| {
        let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(HIGH))?;
        // SAFETY: the call succeeded, so this is a new descriptor that nothing else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    });
    let high: Vec<OwnedFd> = high.collect::<Result<_, Errno>>()?;
    let place = move || {
        for (fd, number) in high.iter().zip(3..) {
            // SAFETY: dup2(2) takes two numbers; whatever had the second one belongs to this child alone.
            Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) })?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only, and allocates nothing.
    Ok(unsafe { command.pre_exec(place) })
}

/// A descriptor that came with a message.
#[must_use]
pub fn received(number: RawFd) -> OwnedFd {
    // SAFETY: the caller has it from recvmsg(2), which made it for this process alone.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Whether both are the same open file description (kcmp(2), `KCMP_FILE` = 0).
#[must_use]
pub fn is_same_file(one: &impl AsRawFd, other: &impl AsRawFd) -> bool {
    let pid = std::process::id();
    // SAFETY: the system call takes five integers and touches no memory of this process.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, 0, one.as_raw_fd(), other.as_raw_fd()) };
    order == 0
}

/// pidfd_open(2): a descriptor that becomes readable when the process ends.
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: the system call takes two integers and touches no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// How an io_uring read names its file.
#[derive(Debug, Clone, Copy)]
pub enum RingFile {
    /// By descriptor.
    Plain(RawFd),
    /// By its index among the registered files.
    Registered(u32),
}

/// One read of a batch: where from, into what; the ring owns the buffer while the kernel may write to it.
#[derive(Debug)]
pub struct RingRead {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// As many bytes are asked for as it is long.
    pub buffer: Vec<u8>,
    /// What the completion said: bytes read, or the errno.
    pub result: Result<usize, Errno>,
}

/// An io_uring of its own.
pub struct Ring {
    ring: IoUring,
}

impl Ring {
    /// A ring that takes up to `entries` reads at once.
    pub fn new(entries: u32) -> Result<Self, Errno> {
        Ok(Self { ring: IoUring::new(entries).map_err(|error| errno(&error))? })
    }

    /// Registers one file, as index 0.
    pub fn register(&self, file: &File) -> Result<(), Errno> {
        self.ring.submitter().register_files(&[file.as_raw_fd()]).map_err(|error| errno(&error))
    }

    /// Submits all reads in one system call and waits until every one is complete. When the ring itself fails
    /// the buffers are leaked, because the kernel may still write to them.
    pub fn read(&mut self, file: RingFile, mut reads: Vec<RingRead>) -> Result<Vec<RingRead>, Errno> {
        for (index, read) in reads.iter_mut().enumerate() {
            let length = u32::try_from(read.buffer.len()).map_err(|_| Errno::EINVAL)?;
            let buffer = read.buffer.as_mut_ptr();
            let entry = match file {
                RingFile::Plain(fd) => {
                    opcode::Read::new(types::Fd(fd), buffer, length).offset(read.offset).build()
                }
                RingFile::Registered(index) => {
                    opcode::Read::new(types::Fixed(index), buffer, length).offset(read.offset).build()
                }
            };
            let entry = entry.user_data(index as u64);
            // SAFETY: the buffer belongs to `reads`, which is neither moved out of nor freed before its
            // completion was seen (or is leaked below).
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_err() {
                std::mem::forget(reads);
                return Err(Errno::ENOSPC);
            }
        }
        let mut left = reads.len();
        while left > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if errno(&error) == Errno::EINTR => {}
                Err(error) => {
                    std::mem::forget(reads);
                    return Err(errno(&error));
                }
            }
            for completion in self.ring.completion() {
                let read =
                    usize::try_from(completion.user_data()).ok().and_then(|index| reads.get_mut(index));
                if let Some(read) = read {
                    let result = completion.result();
                    read.result =
                        usize::try_from(result).map_err(|_| Errno::from_raw(result.saturating_neg()));
                    left -= 1;
                }
            }
        }
        Ok(reads)
    }
}

/// The errno inside an I/O error of a system call.
fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
