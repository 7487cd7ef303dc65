//! Giving back what a complete file takes of memory and of the disk, never under an open descriptor or a mapping.
//!
//! Driven by `agent`, which has the gate hold readers and gives the keeper its copy first. [`File::empty`] is safe against
//! the death of the agent at each step: first nothing is ready in memory, so that whoever opens the file from then on is
//! held; then the kernel says that nobody has it open (`sys::lease`: who was in the middle of open(2) counts); then the
//! ready file says on the disk that nothing is there, also after a loss of power; and only then the bytes go.

use std::os::fd::AsFd;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::File;
use crate::base::BlockIndex;
use crate::store::error::Error;
use crate::sys::{file, lease};

/// What came of giving something back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freed {
    /// So many bytes of the disk or of memory.
    Bytes(u64),
    /// Nothing: somebody has the file open or mapped.
    InUse,
    /// Nothing: it is not complete, or the disk does not have all of it yet.
    NotNow,
}

impl File {
    /// Whether somebody has it open or mapped at this moment. SIGIO must not end this process: it comes when somebody
    /// opens it in this very moment.
    pub fn is_in_use(&self) -> Result<bool, Error> {
        lease::is_open_elsewhere(self.handle.as_fd()).map_err(Error::io("ask for a lease on", &self.path))
    }

    /// Bytes of memory that it takes: in the page cache, or on a file system in memory. `None` where the kernel does
    /// not tell.
    #[must_use]
    pub fn memory(&self) -> Option<u64> {
        if self.is_on_disk() { file::cached_bytes(&self.handle) } else { self.allocated().ok() }
    }

    /// Whether it is on a disk, and not in memory alone.
    #[must_use]
    pub fn is_on_disk(&self) -> bool {
        self.directories.model.file_system().is_disk()
    }

    /// Takes it out of the page cache, if it is complete, the disk has it, and nobody has it open.
    pub fn release_cache(&self) -> Result<Freed, Error> {
        let disk = self.lock();
        if !disk.sealed.is_some_and(|seal| seal.durable) {
            return Ok(Freed::NotNow);
        }
        if self.is_in_use()? {
            return Ok(Freed::InUse);
        }
        let before = file::cached_bytes(&self.handle);
        file::drop_cache(&self.handle).map_err(Error::io("release the page cache of", &self.path))?;
        let after = file::cached_bytes(&self.handle);
        Ok(Freed::Bytes(before.unwrap_or(0).saturating_sub(after.unwrap_or(0))))
    }

    /// Gives up every byte of a complete file that nobody has open. Its readers must be held by the gate already, and
    /// nothing of it may be fetched until this returns. After an error nothing is ready, or all is as before.
    pub fn empty(&self) -> Result<Freed, Error> {
        let mut disk = self.lock();
        // A reply that was given up may still be writing.
        let _no_writes = self.writing.write().unwrap_or_else(PoisonError::into_inner);
        let Some(seal) = disk.sealed.filter(|_| self.layout.size() > 0) else { return Ok(Freed::NotNow) };
        // Its entries are about the same version of the same inode: they would say later that bytes are there.
        self.directories.state.remove_journal(&self.name.hash())?;
        self.complete.store(false, Ordering::Release);
        self.ready.clear();
        let in_use = self.is_in_use();
        if !matches!(in_use, Ok(false)) {
            self.complete_again();
            return in_use.map(|_| Freed::InUse);
        }
        disk.sealed = None;
        self.unrecorded.store(true, Ordering::Release);
        if let Err(error) = self.write_record(&disk, true) {
            disk.sealed = Some(seal);
            self.complete_again();
            return Err(error);
        }
        let before = self.allocated().unwrap_or(0);
        file::punch(&self.handle, self.layout.size()).map_err(Error::io("free the space of", &self.path))?;
        self.set_modified()?;
        Ok(Freed::Bytes(before.saturating_sub(self.allocated().unwrap_or(0))))
    }

    /// No byte has gone: every block is ready as before.
    fn complete_again(&self) {
        for block in (0..self.layout.block_count()).map(BlockIndex) {
            self.ready.set(block);
        }
        self.complete.store(true, Ordering::Release);
    }

    fn allocated(&self) -> std::io::Result<u64> {
        Ok(file::Facts::of(&self.handle)?.allocated)
    }
}
