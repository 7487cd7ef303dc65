//! Which way of holding readers works here, found by trying it: never from a version string.
//!
//! `probe` is called once at start, and by the doctor, with a directory on the file system of `MODEL_DIR`
//! that no reader knows. It leaves nothing behind. What it cannot find it names in its error.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Error;
use crate::bpf::stop::{self, At, Stopper};
use crate::sys::fanotify::{Buffer, Group, Mark, Names, Span, map_briefly};

/// How readers are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Each read and each mmap waits for its bytes (Linux >= 6.14 on ext4, xfs, btrfs).
    PreContent {
        /// How far the kernel's report of the bytes can be trusted.
        ranges: Ranges,
    },
    /// Each read waits for its bytes, and a process that maps a file is stopped until they are there (eBPF and
    /// `FAN_ACCESS_PERM`).
    Stop,
    /// open(2) waits for the whole file.
    Open,
}

/// What was found to work.
#[derive(Debug)]
pub struct Found {
    /// How readers are held.
    pub mode: Mode,
    /// The programs that stop processes. Absent in mode `Open`, and where a mapping that grows cannot be held.
    pub stopper: Option<Stopper>,
}

/// What an event says about the bytes wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranges {
    /// The range in the event is the range of the call.
    Exact,
    /// The kernel reports none, or a wrong one for mappings (Linux 6.14 to 6.17 before "fsnotify: pass
    /// correct offset to fsnotify_mmap_perm()"): every event means the whole file.
    WholeFile,
}

impl Mode {
    pub(super) fn mark(self) -> Mark {
        match self {
            Self::PreContent { .. } => Mark::PreAccess,
            Self::Stop => Mark::Access,
            Self::Open => Mark::Open,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PreContent { ranges: Ranges::Exact } => "pre-content",
            Self::PreContent { ranges: Ranges::WholeFile } => "pre-content (whole files)",
            Self::Stop => "stop",
            Self::Open => "open",
        })
    }
}

/// Where the trial mapping starts: not 0, so that a kernel which drops the offset shows.
const MAP_OFFSET: u64 = 8 << 20;
/// Its length: a few pages, and more than one.
const MAP_LEN: usize = 64 << 10;

/// The best mode for files in `dir`.
pub fn probe(dir: &Path) -> Result<Found, Error> {
    let scratch = Scratch::create(dir)?;
    if let Some(mode) = pre_content(&scratch)? {
        return Ok(Found { mode, stopper: growth(&scratch) });
    }
    match stop(&scratch) {
        Ok(stopper) => return Ok(Found { mode: Mode::Stop, stopper: Some(stopper) }),
        Err(why) => {
            tracing::warn!(%why, "processes cannot be stopped at their mappings: holding at open instead")
        }
    }
    Ok(Found { mode: open(&scratch)?, stopper: None })
}

/// The mode in which the group of an agent that died was used, and goes on to be.
pub fn probe_again(dir: &Path, stopper: Option<Stopper>, group: &Group) -> Result<Found, Error> {
    let stops = |stopper: &Stopper| matches!(stopper.at(), Ok(At::Mmap));
    if stopper.as_ref().is_some_and(stops) {
        return Ok(Found { mode: Mode::Stop, stopper });
    }
    let scratch = Scratch::create(dir)?;
    if group.names().map_err(Error::Group)? == Names::Threads {
        // Its programs died with those who had them.
        let stopper = stop(&scratch).map_err(Error::Programless)?;
        return Ok(Found { mode: Mode::Stop, stopper: Some(stopper) });
    }
    match pre_content(&scratch)? {
        Some(mode) => Ok(Found { mode, stopper }),
        None => Ok(Found { mode: open(&scratch)?, stopper: None }),
    }
}

/// Programs that stop who maps a file.
fn stop(scratch: &Scratch<'_>) -> Result<Stopper, String> {
    let told = |error: &dyn std::error::Error| {
        let mut line = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            line = format!("{line}: {error}");
            cause = error.source();
        }
        line
    };
    let group = Group::new(Names::Threads).map_err(|error| told(&error))?;
    group
        .mark(Mark::Access, scratch.file.as_fd())
        .map_err(|error| format!("no FAN_ACCESS_PERM here: {error}"))?;
    seeing(scratch, At::Mmap).map_err(|error| told(&error))
}

/// Programs that stop whose mapping grows.
fn growth(scratch: &Scratch<'_>) -> Option<Stopper> {
    seeing(scratch, At::Growth)
        .inspect_err(|error| {
            let error: &dyn std::error::Error = error;
            tracing::warn!(error, "a mapping that is grown over missing bytes (mremap) is not held");
        })
        .ok()
}

fn seeing(scratch: &Scratch<'_>, at: At) -> Result<Stopper, stop::Error> {
    let mut stopper = Stopper::start(at)?;
    match stopper.sees_mappings(scratch.file.as_fd(), MAP_OFFSET, MAP_LEN)? {
        true => Ok(stopper),
        false => Err(stop::Error::Blind),
    }
}

fn open(scratch: &Scratch<'_>) -> Result<Mode, Error> {
    match new_group(Mode::Open)?.mark(Mark::Open, scratch.file.as_fd()) {
        Ok(()) => Ok(Mode::Open),
        Err(source) => Err(Error::FileSystem { dir: scratch.dir.to_owned(), source }),
    }
}

fn pre_content(scratch: &Scratch<'_>) -> Result<Option<Mode>, Error> {
    let group = new_group(Mode::PreContent { ranges: Ranges::Exact })?;
    match group.mark(Mark::PreAccess, scratch.file.as_fd()) {
        Ok(()) => {
            let spans = scratch
                .map_and_watch(group)
                .map_err(|source| Error::Scratch { dir: scratch.dir.to_owned(), source })?;
            if let Some(ranges) = judge_mapping(&spans) {
                return Ok(Some(Mode::PreContent { ranges }));
            }
            tracing::warn!("the kernel takes FAN_PRE_ACCESS but mmap passes it by");
        }
        Err(error) => tracing::debug!(%error, "no FAN_PRE_ACCESS here"),
    }
    Ok(None)
}

/// A group for this mode, or what is missing for one. Called by the agent where no keeper has one to go on with.
pub fn new_group(mode: Mode) -> Result<Group, Error> {
    let names = if mode == Mode::Stop { Names::Threads } else { Names::Processes };
    Group::new(names).map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM) => Error::NotPrivileged,
        Some(Errno::ENOSYS | Errno::EINVAL) => Error::NotInKernel(error),
        _ => Error::Group(error),
    })
}

/// What the events of the trial mapping say; `None` when there was none, so that mappings go unheld.
fn judge_mapping(spans: &[Option<Span>]) -> Option<Ranges> {
    let exact = Some(Span { offset: MAP_OFFSET, count: MAP_LEN as u64 });
    match spans {
        [] => None,
        spans if spans.iter().all(|span| *span == exact) => Some(Ranges::Exact),
        _ => Some(Ranges::WholeFile),
    }
}

/// A sparse file without a name, so that nothing can be left behind.
struct Scratch<'d> {
    dir: &'d Path,
    file: File,
}

impl<'d> Scratch<'d> {
    fn create(dir: &'d Path) -> Result<Self, Error> {
        let create = || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_TMPFILE)
                .mode(0o600)
                .open(dir)?;
            file.set_len(MAP_OFFSET + MAP_LEN as u64)?;
            Ok(Self { dir, file })
        };
        create().map_err(|source| Error::Scratch { dir: dir.to_owned(), source })
    }

    /// Maps the marked file in a helper thread, lets each event of it pass, and returns what they said. The
    /// kernel asks before it takes the lock of our address space (`vm_mmap_pgoff`), so a thread of this
    /// process can wait there while another answers.
    fn map_and_watch(&self, group: Group) -> io::Result<Vec<Option<Span>>> {
        // Opened under the mark, hence watched; `self.file` was open before.
        let reader = File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?;
        let mapped = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        thread::scope(|scope| {
            let helper = scope.spawn(|| {
                let outcome = map_briefly(reader.as_fd(), MAP_OFFSET, MAP_LEN);
                mapped.write(1)?;
                outcome
            });
            let spans = collect(&group, &mapped);
            // Lets the helper go even where the collector failed before it had answered.
            drop(group);
            helper.join().map_err(|_| io::Error::other("the mapping thread panicked"))??;
            spans
        })
    }
}

/// Answers every event until `mapped` is armed.
fn collect(group: &Group, mapped: &EventFd) -> io::Result<Vec<Option<Span>>> {
    let mut buffer = Buffer::new();
    let mut spans = Vec::new();
    loop {
        let mut fds =
            [PollFd::new(group.as_fd(), PollFlags::POLLIN), PollFd::new(mapped.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let done = fds[1].any().unwrap_or(false);
        match group.read(Mark::PreAccess, 1, &mut buffer) {
            Ok(batch) => {
                for event in batch {
                    let event = event.map_err(io::Error::other)?;
                    group.allow(&event)?;
                    spans.push(event.span);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && done => return Ok(spans),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_trusted_only_when_reported_exactly() {
        let span = |offset, count| Some(Span { offset, count });
        let len = MAP_LEN as u64;
        for (name, spans, ranges) in [
            ("exact", vec![span(MAP_OFFSET, len)], Some(Ranges::Exact)),
            ("offset dropped", vec![span(0, len)], Some(Ranges::WholeFile)),
            ("no range", vec![None], Some(Ranges::WholeFile)),
            ("to the end of the file", vec![span(MAP_OFFSET, 0)], Some(Ranges::WholeFile)),
            ("one of two", vec![span(MAP_OFFSET, len), None], Some(Ranges::WholeFile)),
            ("no event", vec![], None),
        ] {
            assert_eq!(judge_mapping(&spans), ranges, "{name}");
        }
    }
}
