//! fanotify groups that decide over readers: marks on inodes, permission events, answers (fanotify(7)).
//!
//! Driven by `gate` alone. A `Group` is safe to use from several threads; the kernel serialises marks, reads
//! and answers. Reading never blocks. Every `Event` handed out has a reader waiting behind it in the kernel
//! until `allow` or `deny` is called with it: dropping one unanswered leaves that reader waiting, which is
//! the safe side.
//!
//! The last descriptor of a group that closes lets every waiting and later reader through
//! (`fanotify_release`, fs/notify/fanotify/fanotify_user.c), to zeros if the file is not full: whoever owns
//! a `Group` decides when that may happen. What the bytes of a read mean is in `record`.

mod record;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

pub use record::{Malformed, Span};
use record::{RANGE_RECORD_LEN, Records};

/// `FAN_PRE_ACCESS` of include/uapi/linux/fanotify.h (Linux 6.14); not in libc yet.
const FAN_PRE_ACCESS: u64 = 0x0010_0000;
/// Where `FAN_DENY_ERRNO` puts the errno in a response (include/uapi/linux/fanotify.h, `FAN_ERRNO_SHIFT`).
const FAN_ERRNO_SHIFT: u32 = 24;
/// `FAN_ERRNO_MASK`: an errno has eight bits.
const FAN_ERRNO_MASK: u32 = 0xff;
/// Most events taken with one read(2): enough to share its cost, and 3 KiB of buffer.
pub const BATCH: usize = 64;

/// What a mark asks to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Each access to content before it happens, with its range (`FAN_PRE_ACCESS`).
    PreAccess,
    /// Each open(2) (`FAN_OPEN_PERM`).
    Open,
}

impl Mark {
    fn mask(self) -> u64 {
        match self {
            Self::PreAccess => FAN_PRE_ACCESS,
            Self::Open => libc::FAN_OPEN_PERM,
        }
    }
}

/// One reader waiting for an answer.
#[derive(Debug)]
pub struct Event {
    /// A descriptor of the file read, which itself raises no events; closed with the event.
    pub fd: OwnedFd,
    /// Thread group id of the reader; 0 when it is outside the agent's pid namespace.
    pub pid: u32,
    /// The bytes it is after; `None` when the kernel did not say.
    pub span: Option<Span>,
}

/// A group in the pre-content class: the only one for `FAN_PRE_ACCESS`, and the one whose denials may
/// carry an errno for `FAN_OPEN_PERM` too (seen on 6.18). Kernels before 6.14 have the class as well.
#[derive(Debug)]
pub struct Group {
    fd: OwnedFd,
}

impl Group {
    /// A new group. Refused without `CAP_SYS_ADMIN` (EPERM), on kernels built without
    /// `CONFIG_FANOTIFY_ACCESS_PERMISSIONS` (EINVAL) or without fanotify (ENOSYS).
    pub fn new() -> io::Result<Self> {
        // An unbounded queue, because a full one drops events, and a dropped event lets its reader through.
        let flags = libc::FAN_CLASS_PRE_CONTENT
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_UNLIMITED_QUEUE
            | libc::FAN_UNLIMITED_MARKS;
        let event_flags = (libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC).cast_unsigned();
        // SAFETY: takes two integers, touches no memory of ours.
        let fd = unsafe { libc::fanotify_init(flags, event_flags) };
        let fd = Errno::result(fd)?;
        // SAFETY: the call succeeded, so `fd` is a new descriptor that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// Decides over readers of the inode behind `file` from now on. Descriptors that were open before raise
    /// no `PreAccess` events: whether a file is watched is settled at open(2) (`file_set_fsnotify_mode`).
    pub fn mark(&self, mark: Mark, file: BorrowedFd<'_>) -> io::Result<()> {
        self.change_mark(libc::FAN_MARK_ADD, mark, file)
    }

    /// Stops deciding over readers of that inode. Events already queued still have to be answered.
    pub fn unmark(&self, mark: Mark, file: BorrowedFd<'_>) -> io::Result<()> {
        self.change_mark(libc::FAN_MARK_REMOVE, mark, file)
    }

    fn change_mark(&self, change: libc::c_uint, mark: Mark, file: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: both descriptors are open for the length of the call; a null path means the inode behind
        // the directory descriptor itself (fanotify_mark(2)).
        let status = unsafe {
            libc::fanotify_mark(self.fd.as_raw_fd(), change, mark.mask(), file.as_raw_fd(), ptr::null())
        };
        Errno::result(status)?;
        Ok(())
    }

    /// Takes up to `most` waiting events (`BATCH` at a time); `WouldBlock` when there is none.
    ///
    /// For each event the kernel opens a descriptor; one it cannot open (`EMFILE`) it denies by itself. So
    /// `most` must not exceed the free descriptors. `mark` is the kind the group is used with, which
    /// settles the length of a record; a pre-content record without a range is half as long, so then up
    /// to twice `most` events come.
    pub fn read<'b>(&self, mark: Mark, most: usize, buffer: &'b mut Buffer) -> io::Result<Batch<'b>> {
        let record = match mark {
            Mark::PreAccess => RANGE_RECORD_LEN,
            Mark::Open => record::METADATA_LEN,
        };
        let len = (most.clamp(1, BATCH) * record).min(buffer.0.len());
        let filled = nix::unistd::read(&self.fd, &mut buffer.0[..len])?;
        Ok(Batch { records: Records::new(&buffer.0[..filled.min(len)]) })
    }

    /// Lets the reader go on. `NotFound` when nobody waits for this answer.
    pub fn allow(&self, event: &Event) -> io::Result<()> {
        self.respond(event, libc::FAN_ALLOW)
    }

    /// Fails the reader's call, with `errno` where the kernel can say it.
    ///
    /// Linux >= 6.14 accepts EPERM, EIO, EBUSY, ETXTBSY, EAGAIN, ENOSPC and EDQUOT
    /// (`process_access_response`); others become EIO, and older kernels give EPERM for all.
    pub fn deny(&self, event: &Event, errno: Errno) -> io::Result<()> {
        let with = |errno: Errno| {
            let code = (errno as i32).cast_unsigned() & FAN_ERRNO_MASK;
            self.respond(event, libc::FAN_DENY | (code << FAN_ERRNO_SHIFT))
        };
        let refused = |error: &io::Error| error.kind() == io::ErrorKind::InvalidInput;
        match with(errno) {
            Err(error) if refused(&error) => match with(Errno::EIO) {
                Err(error) if refused(&error) => self.respond(event, libc::FAN_DENY),
                answered => answered,
            },
            answered => answered,
        }
    }

    fn respond(&self, event: &Event, response: u32) -> io::Result<()> {
        // struct fanotify_response: s32 fd, u32 response. The kernel takes one a write.
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&event.fd.as_raw_fd().to_ne_bytes());
        bytes[4..].copy_from_slice(&response.to_ne_bytes());
        nix::unistd::write(&self.fd, &bytes)?;
        Ok(())
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Maps `len` bytes of `file` from `offset`, read-only, and unmaps them again without touching them: what a
/// gate's self-test needs to see how the kernel reports a mapping. `offset` is a multiple of the page size.
pub fn map_briefly(file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<()> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: a new mapping at an address of the kernel's choice; it replaces nothing.
    let at = unsafe {
        libc::mmap(ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), offset)
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: exactly the mapping just made, to which no reference was ever formed.
    Errno::result(unsafe { libc::munmap(at, len) })?;
    Ok(())
}

/// Room for one batch of records.
#[derive(Debug)]
pub struct Buffer(Box<[u8]>);

impl Buffer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self(vec![0; BATCH * RANGE_RECORD_LEN].into_boxed_slice())
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

/// The events of one read. To be used up: the descriptors of events not taken out would stay open.
#[derive(Debug)]
pub struct Batch<'b> {
    records: Records<'b>,
}

impl Iterator for Batch<'_> {
    type Item = Result<Event, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = match self.records.next()? {
            Ok(record) => record,
            Err(malformed) => return Some(Err(malformed)),
        };
        // SAFETY: the kernel opened this descriptor for us in the read these bytes come from, `record`
        // has checked that it is not negative, and each record is taken once.
        let fd = unsafe { OwnedFd::from_raw_fd(record.fd) };
        Some(Ok(Event { fd, pid: record.pid, span: record.span }))
    }
}
