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

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod record;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;

use nix::errno::Errno;

pub use record::{Malformed, Span};
use record::{RANGE_RECORD_LEN, Records};

use super::shared::{Memory, WORD};

/// `FAN_PRE_ACCESS` of include/uapi/linux/fanotify.h (Linux 6.14); not in libc yet.
const FAN_PRE_ACCESS: u64 = 0x0010_0000;
/// Where `FAN_DENY_ERRNO` puts the errno in a response (include/uapi/linux/fanotify.h, `FAN_ERRNO_SHIFT`).
const FAN_ERRNO_SHIFT: u32 = 24;
/// `FAN_ERRNO_MASK`: an errno has eight bits.
const FAN_ERRNO_MASK: u32 = 0xff;
/// Most events taken with one read(2): enough to share its cost, and 3 KiB of buffer.
pub const BATCH: usize = 64;
/// Bytes of a buffer for that many.
pub const BATCH_BYTES: usize = BATCH * RANGE_RECORD_LEN;

/// What a mark asks to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Each access to content before it happens, with its range (`FAN_PRE_ACCESS`).
    PreAccess,
    /// Each read, without its range, and each execution (`FAN_ACCESS_PERM`, `FAN_OPEN_EXEC_PERM`); mappings pass.
    Access,
    /// Each open(2) (`FAN_OPEN_PERM`).
    Open,
}

/// Whom an event names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// The reader's process.
    Processes,
    /// The reader's thread (`FAN_REPORT_TID`, Linux 4.20).
    Threads,
}

impl Mark {
    fn mask(self) -> u64 {
        match self {
            Self::PreAccess => FAN_PRE_ACCESS,
            Self::Access => libc::FAN_ACCESS_PERM | libc::FAN_OPEN_EXEC_PERM,
            Self::Open => libc::FAN_OPEN_PERM,
        }
    }
}

/// One reader waiting for an answer.
#[derive(Debug)]
pub struct Event {
    /// A descriptor of the file read, which itself raises no events; closed with the event.
    pub fd: OwnedFd,
    /// Id of the reader's process, or thread, as the group was made; 0 when it is outside the agent's pid namespace.
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
    pub fn new(names: Names) -> io::Result<Self> {
        // An unbounded queue, because a full one drops events, and a dropped event lets its reader through.
        let flags = libc::FAN_CLASS_PRE_CONTENT
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_UNLIMITED_QUEUE
            | libc::FAN_UNLIMITED_MARKS
            | match names {
                Names::Processes => 0,
                Names::Threads => libc::FAN_REPORT_TID,
            };
        let event_flags = (libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC).cast_unsigned();
        // SAFETY: takes two integers, touches no memory of ours.
        let fd = unsafe { libc::fanotify_init(flags, event_flags) };
        let fd = Errno::result(fd)?;
        // SAFETY: the call succeeded, so `fd` is a new descriptor that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// A group that another process made, by a duplicate of its descriptor.
    #[must_use]
    pub fn inherited(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Whom its events name (proc_pid_fdinfo(5), `fanotify_show_fdinfo` in fs/notify/fdinfo.c).
    pub fn names(&self) -> io::Result<Names> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd()))?;
        let flags = info.lines().find_map(|line| line.strip_prefix("fanotify flags:")?.split(' ').next());
        let flags = flags.and_then(|flags| libc::c_uint::from_str_radix(flags, 16).ok());
        let flags = flags.ok_or_else(|| io::Error::other("a descriptor taken over is no fanotify group"))?;
        Ok(if flags & libc::FAN_REPORT_TID == 0 { Names::Processes } else { Names::Threads })
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
            Mark::Access | Mark::Open => record::METADATA_LEN,
        };
        let len = (most.clamp(1, BATCH) * record).min(BATCH_BYTES);
        let filled = buffer.fill(&self.fd, len)?.min(len);
        Ok(Batch { records: Records::new(&buffer.bytes[..filled]) })
    }

    /// Lets the reader go on. `NotFound` when nobody waits for this answer.
    pub fn allow(&self, event: &Event) -> io::Result<()> {
        self.respond(event.fd.as_raw_fd(), libc::FAN_ALLOW)
    }

    /// Fails the reader's call, with `errno` where the kernel can say it.
    ///
    /// Linux >= 6.14 accepts EPERM, EIO, EBUSY, ETXTBSY, EAGAIN, ENOSPC and EDQUOT
    /// (`process_access_response`); others become EIO, and older kernels give EPERM for all.
    pub fn deny(&self, event: &Event, errno: Errno) -> io::Result<()> {
        self.deny_number(event.fd.as_raw_fd(), errno)
    }

    /// The same for an event by its number alone: the descriptor that the process which took it had for it.
    /// The kernel compares nothing else (`process_access_response`), so the number must not be that of a
    /// younger event. `NotFound` when nobody waits for this number.
    pub fn deny_number(&self, number: RawFd, errno: Errno) -> io::Result<()> {
        let with = |errno: Errno| {
            let code = (errno as i32).cast_unsigned() & FAN_ERRNO_MASK;
            self.respond(number, libc::FAN_DENY | (code << FAN_ERRNO_SHIFT))
        };
        let refused = |error: &io::Error| error.kind() == io::ErrorKind::InvalidInput;
        match with(errno) {
            Err(error) if refused(&error) => match with(Errno::EIO) {
                Err(error) if refused(&error) => self.respond(number, libc::FAN_DENY),
                answered => answered,
            },
            answered => answered,
        }
    }

    fn respond(&self, number: RawFd, response: u32) -> io::Result<()> {
        // struct fanotify_response: s32 fd, u32 response. The kernel takes one a write.
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&number.to_ne_bytes());
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

/// Room for one batch of records, of this process alone or where a later process finds them.
///
/// The kernel writes a record before it counts the event as taken (`fanotify_read`), so of those in shared
/// memory none is lost, whenever this process is killed. They stay there until `settle`.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    inbox: Option<Inbox>,
}

/// Where in shared memory the kernel puts records.
#[derive(Debug)]
struct Inbox {
    memory: Arc<Memory>,
    at: usize,
    /// Words that hold records now.
    used: usize,
}

impl Buffer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self { bytes: vec![0; BATCH_BYTES].into_boxed_slice(), inbox: None }
    }

    /// An empty buffer whose records pass through [`BATCH_BYTES`] of `memory` from word `at` on.
    #[must_use]
    pub fn shared(memory: Arc<Memory>, at: usize) -> Self {
        Self { inbox: Some(Inbox { memory, at, used: 0 }), ..Self::new() }
    }

    /// Every event of the batch has its answer, or is on record elsewhere: to be called before the next read.
    pub fn settle(&mut self) {
        if let Some(inbox) = &mut self.inbox {
            for word in 0..std::mem::take(&mut inbox.used) {
                inbox.memory.store(inbox.at + word, 0);
            }
        }
    }

    fn fill(&mut self, from: &OwnedFd, len: usize) -> io::Result<usize> {
        let Some(inbox) = &mut self.inbox else {
            return Ok(nix::unistd::read(from, &mut self.bytes[..len])?);
        };
        let filled = inbox.memory.read_into(from.as_fd(), inbox.at, len)?.min(len);
        inbox.used = filled.div_ceil(WORD);
        for (word, bytes) in self.bytes.as_chunks_mut::<WORD>().0.iter_mut().take(inbox.used).enumerate() {
            *bytes = inbox.memory.load(inbox.at + word).to_ne_bytes();
        }
        Ok(filled)
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

/// An event that a process took and may not have answered, as its record in shared memory tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The number it is answered by.
    pub number: RawFd,
    /// As in [`Event`].
    pub pid: u32,
    /// As in [`Event`].
    pub span: Option<Span>,
}

/// The events that a buffer over these words of `memory` had taken and not settled when its process ended.
#[must_use]
pub fn unsettled(memory: &Memory, at: usize) -> Vec<Taken> {
    let bytes: Vec<u8> =
        (0..BATCH_BYTES / WORD).flat_map(|word| memory.load(at + word).to_ne_bytes()).collect();
    let records = Records::new(&bytes).map_while(Result::ok);
    records.map(|record| Taken { number: record.fd, pid: record.pid, span: record.span }).collect()
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
