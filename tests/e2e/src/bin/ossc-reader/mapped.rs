//! Reads through mappings.
//!
//! Driven by `kind`. Only the pages of the range are mapped, so that the tests see mappings that start in the
//! middle of a file; a mapping that the kernel refuses gives its errno.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;

use e2e::content::Target;
use e2e::sys::Mapping;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;

use crate::Finding;

/// Bytes of a page of this machine's base size; a mapping starts at a multiple of it.
const PAGE: u64 = 4096;

/// What is mapped before it grows.
const FIRST: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// How to map.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// MAP_PRIVATE.
    Private,
    /// MAP_SHARED.
    Shared,
    /// MAP_SHARED | MAP_POPULATE.
    Populate,
    /// MAP_PRIVATE, and MADV_POPULATE_READ after it.
    AdvisePopulate,
    /// MAP_SHARED of one page, which grows.
    Grow,
    /// MAP_SHARED, and a child reads it.
    Forked,
}

/// Maps the pages of `range` and verifies its bytes.
pub(crate) fn read(target: &Target, range: Range<u64>, mode: Mode) -> Result<(), Finding> {
    let file = File::open(target.path())?;
    let start = range.start - range.start % PAGE;
    let skip = usize::try_from(range.start - start).map_err(|_| Errno::EOVERFLOW)?;
    let length = usize::try_from(range.end - start).map_err(|_| Errno::EOVERFLOW)?;
    // An empty file cannot be mapped, and has no byte that could be wrong.
    let Some(mapped) = NonZeroUsize::new(length) else { return Ok(()) };
    let flags = match mode {
        Mode::Private | Mode::AdvisePopulate => MapFlags::MAP_PRIVATE,
        Mode::Shared | Mode::Grow | Mode::Forked => MapFlags::MAP_SHARED,
        Mode::Populate => MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE,
    };
    let offset = i64::try_from(start).map_err(|_| Errno::EOVERFLOW)?;
    let first = match mode {
        Mode::Grow => mapped.min(FIRST),
        _ => mapped,
    };
    let mut mapping = Mapping::new(&file, offset, first, flags)?;
    if first < mapped {
        mapping.grow(mapped)?;
    }
    if matches!(mode, Mode::AdvisePopulate) {
        mapping.populate()?;
    }
    let mut bytes = vec![0; length - skip];
    match mode {
        Mode::Forked => mapping.copy_in_child(skip, &mut bytes)?,
        _ => mapping.copy(skip, &mut bytes).ok_or(Errno::EFAULT)?,
    }
    Ok(target.check(range.start, &bytes)?)
}
