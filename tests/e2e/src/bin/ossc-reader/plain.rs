//! Reads by system calls that move bytes: the read family, splice, sendfile, copy_file_range, O_DIRECT.
//!
//! Driven by `kind`. Each opens the file anew, since whether a file is watched is decided at open(2). A short
//! result is legal for all of them, so each goes on until the range is complete; an end of file before that is a
//! wrong content.

use std::fs::{File, OpenOptions};
use std::io::{IoSliceMut, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use e2e::content::{Mismatch, Target};
use e2e::sys;
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, copy_file_range, splice};
use nix::sys::sendfile::sendfile64;

use crate::Finding;

/// O_DIRECT wants offset, length and memory aligned to the logical block of the device; 4 KiB suits them all.
const DIRECT_ALIGNMENT: u64 = 4096;
/// Bytes moved through a pipe or socket at a time: fits the default capacity of both (64 KiB pipe, 208 KiB
/// socket buffer), so that one thread can fill and empty it in turn.
const PIPE_BYTES: usize = 32 << 10;

/// Whether a read may wait for the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    /// Ordinary.
    Wait,
    /// RWF_NOWAIT.
    NoWait,
}

/// One read to make.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// The file and its right content.
    pub(crate) target: &'a Target,
    /// Which bytes.
    pub(crate) range: Range<u64>,
}

impl Call<'_> {
    fn open(&self) -> Result<File, Finding> {
        Ok(File::open(self.target.path())?)
    }

    fn length(&self) -> Result<usize, Finding> {
        Ok(usize::try_from(self.range.end - self.range.start).map_err(|_| Errno::EOVERFLOW)?)
    }

    /// Calls `step` with the offset and the part of the buffer still to fill, until it is full; then verifies.
    fn fill(&self, mut step: impl FnMut(u64, &mut [u8]) -> Result<usize, Finding>) -> Result<(), Finding> {
        let mut bytes = vec![0; self.length()?];
        let mut done = 0;
        while done < bytes.len() {
            let offset = self.range.start + done as u64;
            let got = step(offset, bytes.get_mut(done..).unwrap_or_default())?;
            if got == 0 {
                return Err(Mismatch::early_end(offset).into());
            }
            done += got;
        }
        Ok(self.target.check(self.range.start, &bytes)?)
    }

    /// lseek(2) and read(2).
    pub(crate) fn read(&self) -> Result<(), Finding> {
        let mut file = self.open()?;
        file.seek(SeekFrom::Start(self.range.start))?;
        self.fill(|_, buffer| Ok(file.read(buffer)?))
    }

    /// pread(2).
    pub(crate) fn pread(&self) -> Result<(), Finding> {
        let file = self.open()?;
        self.fill(|offset, buffer| Ok(file.read_at(buffer, offset)?))
    }

    /// readv(2).
    pub(crate) fn readv(&self) -> Result<(), Finding> {
        let mut file = self.open()?;
        file.seek(SeekFrom::Start(self.range.start))?;
        self.fill(|_, buffer| Ok(file.read_vectored(&mut three_parts(buffer))?))
    }

    /// preadv2(2). Without patience, EAGAIN ends the read, and the bytes before it are verified.
    pub(crate) fn preadv2(&self, patience: Patience) -> Result<(), Finding> {
        let file = self.open()?;
        match patience {
            Patience::Wait => self.fill(|offset, buffer| {
                Ok(sys::preadv2(&file, &mut three_parts(buffer), signed(offset)?, 0)?)
            }),
            Patience::NoWait => {
                let mut bytes = vec![0; self.length()?];
                let offset = signed(self.range.start)?;
                match sys::preadv2(&file, &mut three_parts(&mut bytes), offset, libc::RWF_NOWAIT) {
                    Ok(got) => {
                        Ok(self.target.check(self.range.start, bytes.get(..got).unwrap_or_default())?)
                    }
                    Err(Errno::EAGAIN) => Ok(()),
                    // A file system that cannot read without waiting says so, whoever guards it: tmpfs.
                    Err(Errno::EOPNOTSUPP) => self.preadv2(Patience::Wait),
                    Err(errno) => Err(errno.into()),
                }
            }
        }
    }

    /// splice(2) to a pipe, out of which the bytes are read.
    pub(crate) fn splice(&self) -> Result<(), Finding> {
        let file = self.open()?;
        let (mut out, into) = std::io::pipe()?;
        self.fill(|offset, buffer| {
            let mut from = signed(offset)?;
            let length = buffer.len().min(PIPE_BYTES);
            let moved = splice(&file, Some(&mut from), &into, None, length, SpliceFFlags::empty())?;
            out.read_exact(buffer.get_mut(..moved).unwrap_or_default())?;
            Ok(moved)
        })
    }

    /// sendfile(2) to a socket, out of which the bytes are read.
    pub(crate) fn sendfile(&self) -> Result<(), Finding> {
        let file = self.open()?;
        let (mut out, into) = UnixStream::pair()?;
        self.fill(|offset, buffer| {
            let mut from = signed(offset)?;
            let moved = sendfile64(&into, file.as_fd(), Some(&mut from), buffer.len().min(PIPE_BYTES))?;
            out.read_exact(buffer.get_mut(..moved).unwrap_or_default())?;
            Ok(moved)
        })
    }

    /// copy_file_range(2) to the start of a new file, which is then read.
    pub(crate) fn copy_file_range(&self, scratch: &Path) -> Result<(), Finding> {
        let file = self.open()?;
        let copy = File::options().read(true).write(true).create_new(true).open(scratch.join("copy"))?;
        self.fill(|offset, buffer| {
            let mut from = signed(offset)?;
            let mut to = signed(offset - self.range.start)?;
            let at = offset - self.range.start;
            let moved = copy_file_range(&file, Some(&mut from), &copy, Some(&mut to), buffer.len())?;
            copy.read_exact_at(buffer.get_mut(..moved).unwrap_or_default(), at)?;
            Ok(moved)
        })
    }

    /// pread(2) with O_DIRECT of the aligned range around the wanted one.
    pub(crate) fn o_direct(&self) -> Result<(), Finding> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(self.target.path())?;
        let start = self.range.start - self.range.start % DIRECT_ALIGNMENT;
        let alignment = usize::try_from(DIRECT_ALIGNMENT).map_err(|_| Errno::EOVERFLOW)?;
        let length = usize::try_from(self.range.end.next_multiple_of(DIRECT_ALIGNMENT) - start)
            .map_err(|_| Errno::EOVERFLOW)?;
        let mut memory = vec![0_u8; length + alignment];
        let skip = memory.as_ptr().align_offset(alignment);
        let buffer = memory.get_mut(skip..skip + length).ok_or(Errno::EOVERFLOW)?;
        let mut done = 0;
        while start + (done as u64) < self.range.end {
            let offset = start + done as u64;
            let got = file.read_at(buffer.get_mut(done..).unwrap_or_default(), offset)?;
            if got == 0 {
                return Err(Mismatch::early_end(offset).into());
            }
            done += got;
        }
        Ok(self.target.check(start, buffer.get(..done).unwrap_or_default())?)
    }
}

/// Cuts a buffer into three, the middle one longest, so that a vectored read really is one.
fn three_parts(buffer: &mut [u8]) -> [IoSliceMut<'_>; 3] {
    let quarter = buffer.len() / 4;
    let (first, rest) = buffer.split_at_mut(quarter);
    let middle = rest.len() - quarter;
    let (second, third) = rest.split_at_mut(middle);
    [IoSliceMut::new(first), IoSliceMut::new(second), IoSliceMut::new(third)]
}

/// An offset as the kernel takes it.
fn signed(offset: u64) -> Result<i64, Errno> {
    i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)
}
