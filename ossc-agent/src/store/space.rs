//! Whether the missing bytes will fit, asked before the first of them is fetched. Pure.

use std::path::Path;

use super::error::Error;
use crate::sys::file::Space;

/// Room for directories, ready files and the log that every file system wants besides the data.
const RESERVE_BYTES: u64 = 1 << 20;
/// And for extent trees and checksums, which grow with the data: 1/1024 (btrfs's crc32c of each 4 KiB).
const RESERVE_SHARE: u64 = 1024;
/// Data occupies whole pages, or blocks of the same size.
const ROUNDING: u64 = 4096;
/// A new file takes an inode for its data and one for its ready file.
const INODES_PER_FILE: u64 = 2;
/// A ready file in the making exists beside the one it will replace.
const INODES_OWN: u64 = 1;

/// What a layout will take from the file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Demand {
    bytes: u64,
    new_files: u64,
    new_directories: u64,
    reclaimed: u64,
}

impl Demand {
    /// A new file of `size` bytes.
    pub(super) fn add_file(&mut self, size: u64) {
        self.new_files += 1;
        self.add_missing(size);
    }

    /// `missing` bytes of a file that exists.
    pub(super) fn add_missing(&mut self, missing: u64) {
        self.bytes = self.bytes.saturating_add(missing.div_ceil(ROUNDING).saturating_mul(ROUNDING));
    }

    /// A directory that may have to be made.
    pub(super) fn add_directory(&mut self) {
        self.new_directories += 1;
    }

    /// Bytes of a file that will be removed first.
    pub(super) fn reclaim(&mut self, bytes: u64) {
        self.reclaimed = self.reclaimed.saturating_add(bytes);
    }

    /// Refuses when it does not fit.
    pub(super) fn check(self, space: Space, path: &Path) -> Result<(), Error> {
        if self.new_files > 0 || self.bytes > 0 {
            let reserve = RESERVE_BYTES + self.bytes / RESERVE_SHARE;
            let need = self.bytes.saturating_add(reserve).saturating_sub(self.reclaimed);
            if let Some(have) = space.bytes.filter(|have| *have < need) {
                return Err(Error::Space { path: path.to_owned(), need, have });
            }
            let need = self.new_files * INODES_PER_FILE + self.new_directories + INODES_OWN;
            if let Some(have) = space.inodes.filter(|have| *have < need) {
                return Err(Error::Inodes { path: path.to_owned(), need, have });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn refuses_only_what_does_not_fit() {
        let space = |bytes, inodes| Space { bytes: Some(bytes), inodes: Some(inodes) };
        let mut demand = Demand::default();
        demand.add_file(MIB - 1);
        demand.add_missing(MIB);
        demand.add_directory();
        // 2 MiB of data, 1 MiB and 2 KiB in reserve; 2 + 1 + 1 inodes.
        let need = 3 * MIB + 2048;
        let path = Path::new("/m");
        assert!(demand.check(space(need, 4), path).is_ok());
        assert!(demand.check(Space { bytes: None, inodes: None }, path).is_ok());
        assert!(matches!(
            demand.check(space(need - 1, 4), path),
            Err(Error::Space { need: n, have, .. }) if n == need && have == need - 1
        ));
        assert!(matches!(demand.check(space(need, 3), path), Err(Error::Inodes { need: 4, have: 3, .. })));
        demand.reclaim(MIB);
        assert!(demand.check(space(2 * MIB + 2048, 4), path).is_ok());
    }

    #[test]
    fn needs_nothing_when_nothing_is_missing() {
        assert!(Demand::default().check(Space { bytes: Some(0), inodes: Some(0) }, Path::new("/m")).is_ok());
    }
}
