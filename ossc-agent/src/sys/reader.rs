//! Other processes, as those who hold them need to know them: a handle that never means another process, whether
//! all threads have stopped, which bytes of files are mapped (proc_pid_maps(5), proc_pid_stat(5)).
//!
//! Driven by `gate` and `keeper`. Everything is the state of a moment; a process that has ended is `NotFound`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::base::ByteRange;

/// A process, also when its id is used again.
#[derive(Debug)]
pub struct Handle(OwnedFd);

impl Handle {
    /// pidfd_open(2), Linux 5.3.
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: the system call takes two integers and touches no memory of this process.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(found(result)?).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let no_info: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: without info the call reads no memory of this process.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal as libc::c_int, no_info, 0)
        };
        found(result).map(drop)
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn found(result: libc::c_long) -> io::Result<libc::c_long> {
    match Errno::result(result) {
        Err(Errno::ESRCH) => Err(io::ErrorKind::NotFound.into()),
        other => Ok(other?),
    }
}

/// What a thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It has stopped for a signal, or is being traced.
    Stopped,
    /// It has ended.
    Ended,
    /// It sleeps inside the kernel.
    Sleeping,
    /// It runs, or may at any moment.
    Running,
}

/// The threads of a process and what each does.
pub fn threads(pid: u32) -> io::Result<Vec<(u32, Doing)>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Some(tid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A thread may end between the listing and the look.
        let doing = match fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")) {
            Ok(stat) => doing(&stat),
            Err(error) if ended(&error) => Doing::Ended,
            Err(error) => return Err(error),
        };
        threads.push((tid, doing));
    }
    Ok(threads)
}

/// Whether this is what a look at a thread that has ended gives.
fn ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// From `TID (NAME) STATE ...`, where NAME may hold anything, also `)`.
fn doing(stat: &str) -> Doing {
    match stat.rsplit_once(')').map(|(_, rest)| rest.trim_start().as_bytes()) {
        Some([b'T' | b't', ..]) => Doing::Stopped,
        None | Some([b'Z' | b'X' | b'x', ..]) => Doing::Ended,
        Some([b'S' | b'D' | b'I', ..]) => Doing::Sleeping,
        Some(_) => Doing::Running,
    }
}

/// A part of a file that a process has mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// Device of the file's super block in the kernel's encoding, major << 20 | minor.
    pub device: u32,
    /// Inode number.
    pub inode: u64,
    /// Bytes of the file.
    pub range: ByteRange,
    /// Where they are in the memory of the process.
    pub address: u64,
    /// Whether a write there makes a copy of the page for the process alone.
    pub copies: bool,
}

/// All files a process has mapped, in the order of its memory.
pub fn mapped(pid: u32) -> io::Result<Vec<Mapped>> {
    match fs::read_to_string(format!("/proc/{pid}/maps")) {
        Ok(maps) => Ok(maps.lines().filter_map(mapped_by).collect()),
        Err(error) if ended(&error) => Err(io::ErrorKind::NotFound.into()),
        Err(error) => Err(error),
    }
}

/// `START-END PERMISSIONS OFFSET MAJOR:MINOR INODE PATH`, numbers but the inode in hexadecimal.
fn mapped_by(line: &str) -> Option<Mapped> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (start, end, offset) = (hex(start)?, hex(end)?, hex(fields.next()?)?);
    let (major, minor) = fields.next()?.split_once(':')?;
    let device = u32::try_from(hex(major)? << MINOR_BITS | hex(minor)?).ok()?;
    let inode: u64 = fields.next()?.parse().ok()?;
    let copies = permissions.ends_with('p') && permissions.contains('w');
    let range = ByteRange::new(offset, offset.checked_add(end.checked_sub(start)?)?);
    (inode != 0).then_some(Mapped { device, inode, range, address: start, copies })
}

/// Bits of the minor number in the kernel's `dev_t` (MINORBITS in include/linux/kdev_t.h).
const MINOR_BITS: u32 = 20;

/// Whether some page of this range of a process's memory is a copy of its own, and not of the file that is mapped
/// there (Documentation/admin-guide/mm/pagemap.rst: bit 63 present, 62 swapped, 61 file page or shared).
pub fn has_private_pages(pid: u32, address: u64, length: u64) -> io::Result<bool> {
    const ENTRY: usize = size_of::<u64>();
    const PAGE: u64 = 4096;
    let pagemap = fs::File::open(format!("/proc/{pid}/pagemap"))?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|page| u64::try_from(page).ok()).unwrap_or(PAGE);
    let mut entries = vec![0; 1 << 16];
    let (mut at, end) = (address / page, address.saturating_add(length).div_ceil(page));
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).saturating_mul(ENTRY).min(entries.len());
        let got = pagemap.read_at(&mut entries[..most], at * ENTRY as u64)?;
        let words = entries[..got].as_chunks::<ENTRY>().0;
        if words.is_empty() {
            break;
        }
        let is_private = |word: &[u8; ENTRY]| {
            let word = u64::from_ne_bytes(*word);
            word >> 62 != 0 && word >> 61 & 1 == 0
        };
        if words.iter().any(is_private) {
            return Ok(true);
        }
        at += words.len() as u64;
    }
    Ok(false)
}

/// Whether a thread is one of this process.
#[must_use]
pub fn is_own_thread(tid: u32) -> bool {
    fs::metadata(format!("/proc/self/task/{tid}")).is_ok()
}

/// The process that a thread belongs to.
pub fn process_of(tid: u32) -> io::Result<u32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status"))?;
    let tgid = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    let missing = || io::Error::other(format!("/proc/{tid}/status shows no Tgid"));
    tgid.and_then(|tgid| tgid.trim().parse().ok()).ok_or_else(missing)
}

/// Position of a thread's descriptor (proc_pid_fdinfo(5)).
pub fn position(tid: u32, descriptor: u32) -> io::Result<u64> {
    let info = fs::read_to_string(format!("/proc/{tid}/fdinfo/{descriptor}"))?;
    let position = info.lines().find_map(|line| line.strip_prefix("pos:"));
    let missing = || io::Error::other(format!("/proc/{tid}/fdinfo/{descriptor} shows no position"));
    position.and_then(|position| position.trim().parse().ok()).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn mappings_are_taken_apart() {
        let line = "7f00000a1000-7f00000a3000 r--p 00002000 fe:01 1234     /a file with spaces";
        let mapped = Mapped {
            device: 0xfe << 20 | 1,
            inode: 1234,
            range: ByteRange::new(0x2000, 0x4000),
            address: 0x7f00_000a_1000,
            copies: false,
        };
        assert_eq!(mapped_by(line), Some(mapped));
        let writable = line.replace("r--p", "rw-p");
        assert_eq!(mapped_by(&writable), Some(Mapped { copies: true, ..mapped }));
        assert_eq!(mapped_by(&line.replace("r--p", "rw-s")), Some(mapped));
        assert_eq!(mapped_by("7ffe0000-7fff0000 rw-p 00000000 00:00 0 [stack]"), None);
        assert_eq!(mapped_by("nonsense"), None);
    }

    #[test]
    fn states_are_found_behind_any_name() {
        assert_eq!(doing("12 (a) R) T 1 2"), Doing::Stopped);
        assert_eq!(doing("12 (a) t 1 2"), Doing::Stopped);
        assert_eq!(doing("12 (T) R 1"), Doing::Running);
        assert_eq!(doing("12 (T) D 1"), Doing::Sleeping);
        assert_eq!(doing(""), Doing::Ended);
        assert_eq!(doing("12 (a) Z 1"), Doing::Ended);
    }

    #[test]
    fn a_child_is_stopped_continued_and_gone() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        let handle = Handle::open(pid).unwrap();
        handle.signal(Signal::SIGSTOP).unwrap();
        while threads(pid).unwrap() != [(pid, Doing::Stopped)] {
            std::thread::yield_now();
        }
        handle.signal(Signal::SIGCONT).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(handle.signal(Signal::SIGCONT).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(Handle::open(pid).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn own_threads_are_known() {
        let own = std::process::id();
        let tid = nix::unistd::gettid().as_raw().cast_unsigned();
        assert!(is_own_thread(tid) && !is_own_thread(1));
        assert_eq!(process_of(tid).unwrap(), own);
        assert!(mapped(own).unwrap().iter().any(|mapped| !mapped.range.is_empty()));
    }
}
