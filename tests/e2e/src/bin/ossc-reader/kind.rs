//! The kinds of reads, one for each row of what the agent promises to hold, and their dispatch.
//!
//! Driven by the main loop with one range of one file. A kind reads it in its own way from a freshly opened
//! descriptor and verifies what it got; whole-file programs ignore the range.

use std::ops::Range;
use std::path::Path;

use clap::ValueEnum;
use e2e::content::Target;

use crate::{Finding, mapped, plain, programs, ring};

/// A way to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// lseek(2), read(2).
    Read,
    /// pread(2).
    Pread,
    /// readv(2) into three buffers.
    Readv,
    /// preadv2(2) without flags.
    Preadv2,
    /// preadv2(2) with RWF_NOWAIT; EAGAIN is a right answer.
    Preadv2Nowait,
    /// mmap(2) MAP_PRIVATE.
    MmapPrivate,
    /// mmap(2) MAP_SHARED.
    MmapShared,
    /// mmap(2) MAP_SHARED | MAP_POPULATE.
    MapPopulate,
    /// mmap(2) MAP_PRIVATE, then MADV_POPULATE_READ.
    MadvPopulateRead,
    /// splice(2) from the file to a pipe.
    Splice,
    /// sendfile(2) from the file to a socket.
    Sendfile,
    /// copy_file_range(2) to a file of the same file system, which is then read.
    CopyFileRange,
    /// pread(2) with O_DIRECT.
    ODirect,
    /// A batch of io_uring reads by descriptor.
    IoUring,
    /// A batch of io_uring reads of a registered file.
    IoUringRegistered,
    /// cp(1), then the copy is read.
    Cp,
    /// sha256sum(1).
    Sha256sum,
    /// dd(1).
    Dd,
    /// Slices of Python's mmap.mmap.
    PythonMmap,
    /// mmap(2) MAP_SHARED of the first page, grown to the range with mremap(2).
    Mremap,
    /// mmap(2) MAP_SHARED, read by a child that fork(2) makes while other threads map.
    MmapForked,
    /// Tensors by safetensors.safe_open; needs a safetensors file with a reference.
    Safetensors,
}

impl Kind {
    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Reads `range` of the target, a file of `size` bytes, and verifies it.
    pub(crate) fn read(
        self,
        target: &Target,
        size: u64,
        range: Range<u64>,
        rng: &mut fastrand::Rng,
        scratch: &Path,
    ) -> Result<(), Finding> {
        let call = plain::Call { target, range: range.clone() };
        match self {
            Self::Read => call.read(),
            Self::Pread => call.pread(),
            Self::Readv => call.readv(),
            Self::Preadv2 => call.preadv2(plain::Patience::Wait),
            Self::Preadv2Nowait => call.preadv2(plain::Patience::NoWait),
            Self::Splice => call.splice(),
            Self::Sendfile => call.sendfile(),
            Self::CopyFileRange => call.copy_file_range(scratch),
            Self::ODirect => call.o_direct(),
            Self::MmapPrivate => mapped::read(target, range, mapped::Mode::Private),
            Self::MmapShared => mapped::read(target, range, mapped::Mode::Shared),
            Self::MapPopulate => mapped::read(target, range, mapped::Mode::Populate),
            Self::MadvPopulateRead => mapped::read(target, range, mapped::Mode::AdvisePopulate),
            Self::Mremap => mapped::read(target, range, mapped::Mode::Grow),
            Self::MmapForked => mapped::read(target, range, mapped::Mode::Forked),
            Self::IoUring => ring::read(target, range, ring::Naming::Descriptor),
            Self::IoUringRegistered => ring::read(target, range, ring::Naming::Registered),
            Self::Cp => programs::cp(target, size, scratch),
            Self::Sha256sum => programs::sha256sum(target, size),
            Self::Dd => programs::dd(target, range),
            Self::PythonMmap => programs::python_mmap(target, size, range, rng),
            Self::Safetensors => programs::safetensors(target, rng),
        }
    }
}

#[cfg(test)]
mod tests {
    use e2e::reader::{KINDS, PROCESS_KINDS, SAFETENSORS};

    use super::*;

    #[test]
    fn the_harness_knows_every_kind() {
        let mut names: Vec<_> = Kind::value_variants().iter().map(|kind| kind.name()).collect();
        assert_eq!(names.pop().unwrap(), SAFETENSORS);
        assert!(names.iter().eq(KINDS.iter().chain(&PROCESS_KINDS)), "{names:?}");
    }
}
