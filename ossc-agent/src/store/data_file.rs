//! One model file: where arriving bytes are written, blocks are committed, and the whole is sealed.
//!
//! Workers of `fetch` write and commit from many threads; the gate reads the ready map; `Store` publishes,
//! persists and hides. The descriptor is opened when the file is laid out, before any watch exists, so
//! that nothing done here is ever held by our own gate. A failed write leaves the block not ready, so it
//! is fetched again or given up; nothing here retries.
//!
//! The modification time is the object's when the file becomes visible and from completion on. While
//! bytes arrive it is the time of the last write: the kernel sets it with each one.

mod on_disk;
mod room;

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use super::error::Error;
use super::journal::Binding;
use super::names::Name;
use super::place::Directories;
use super::ready_file::{Identity, Seal};
use super::ready_map::ReadyMap;
use super::seal;
use crate::base::{BlockIndex, FileId, Layout, Object};
use crate::sys::file::Facts;

pub use room::Freed;

/// Device and inode number, as fstat(2) gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Inode {
    /// st_dev.
    pub dev: u64,
    /// st_ino.
    pub ino: u64,
}

/// Outcome of `seal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// The CRC agrees with OSS.
    Verified,
    /// OSS gave no CRC for this object.
    Unverified,
    /// The CRC differs: the bytes are wrong somewhere.
    Mismatch {
        /// What OSS says.
        expected: u64,
        /// What the blocks give.
        found: u64,
    },
}

/// One model file.
#[derive(Debug)]
pub struct File {
    id: FileId,
    object: Object,
    name: Name,
    path: PathBuf,
    layout: Layout,
    handle: fs::File,
    inode: Inode,
    identity: Identity,
    ready: ReadyMap,
    /// CRC-64/XZ of each ready block; stored before its bit is set.
    crcs: Box<[AtomicU64]>,
    crc64: OnceLock<u64>,
    /// Same as `Disk::sealed.is_some()`, for those who must not wait.
    complete: AtomicBool,
    /// The ready file no longer says what is here.
    unrecorded: AtomicBool,
    /// What its journal's entries agree with.
    binding: OnceLock<Binding>,
    /// Held for reading by each write, for writing while sealing, so that none is under way then.
    writing: RwLock<()>,
    disk: Mutex<Disk>,
    directories: Arc<Directories>,
    era: Arc<str>,
}

/// What changes rarely, and only together with the disk. Its lock is held across the disk operation;
/// it is taken before `writing`.
#[derive(Debug)]
struct Disk {
    visible: bool,
    /// An older version has the visible name until publishing.
    replaces: bool,
    sealed: Option<Seal>,
}

/// What `File::new` is made from: the layout step knows the disk, the file takes it from there.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) id: FileId,
    pub(super) object: Object,
    pub(super) name: Name,
    pub(super) layout: Layout,
    pub(super) handle: fs::File,
    pub(super) facts: Facts,
    pub(super) visible: bool,
    pub(super) replaces: bool,
    pub(super) directories: Arc<Directories>,
    pub(super) era: Arc<str>,
}

impl File {
    /// A file with nothing ready.
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { id, object, name, layout, handle, facts, visible, replaces, directories, era } = parts;
        let crc64 = OnceLock::new();
        if let Some(known) = object.crc64 {
            crc64.get_or_init(|| known);
        }
        Self {
            id,
            path: directories.model.path_of(&name),
            object,
            name,
            layout,
            handle,
            inode: Inode { dev: facts.dev, ino: facts.ino },
            identity: super::recover::identity(&facts),
            ready: ReadyMap::new(layout),
            crcs: (0..layout.block_count()).map(|_| AtomicU64::new(0)).collect(),
            crc64,
            complete: AtomicBool::new(false),
            unrecorded: AtomicBool::new(true),
            binding: OnceLock::new(),
            writing: RwLock::new(()),
            disk: Mutex::new(Disk { visible, replaces, sealed: None }),
            directories,
            era,
        }
    }

    /// What its ready file and its hidden data file are called.
    pub(super) fn hash(&self) -> String {
        self.name.hash()
    }

    /// Index of the file in `Store::files`.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.id
    }

    /// The object it is filled from.
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// How it divides into blocks.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The visible path, absolute; whether it is there yet is `Store::publish`'s doing.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Identity of the inode, which stays the same from layout to completion.
    #[must_use]
    pub fn inode(&self) -> Inode {
        self.inode
    }

    /// The agent's own descriptor, for reading and writing, opened before any watch exists.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Which blocks are there.
    #[must_use]
    pub fn ready(&self) -> &ReadyMap {
        &self.ready
    }

    /// Writes bytes that arrived; the blocks become ready by `commit` only. Called by workers, many at a
    /// time. Bytes for a complete file are dropped: they are there already.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let _writing = self.writing.read().unwrap_or_else(PoisonError::into_inner);
        if self.is_complete() {
            return Ok(());
        }
        let end = u64::try_from(bytes.len()).ok().and_then(|len| offset.checked_add(len));
        let outcome = if end.is_some_and(|end| end <= self.layout.size()) {
            self.handle.write_all_at(bytes, offset)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "the bytes end behind the end of the object"))
        };
        outcome.map_err(|source| Error::Write { path: self.path.clone(), offset, source })
    }

    /// All bytes of `block` are written and have this CRC-64/XZ: readers may see them from now on, and so does
    /// the next agent of this era.
    pub fn commit(&self, block: BlockIndex, crc64: u64) {
        self.admit(block, crc64);
        self.note_in_journal(block, crc64);
    }

    fn admit(&self, block: BlockIndex, crc64: u64) {
        if let Some(slot) = self.crcs.get(block.0 as usize) {
            slot.store(crc64, Ordering::Relaxed);
            self.ready.set(block);
            self.unrecorded.store(true, Ordering::Release);
        }
    }

    /// Learns the whole object's CRC from a reply's `x-oss-hash-crc64ecma`; the first one stands.
    pub fn note_crc64(&self, crc64: u64) {
        self.crc64.get_or_init(|| crc64);
    }

    /// The whole object's CRC-64/XZ, once OSS has told it.
    #[must_use]
    pub fn crc64(&self) -> Option<u64> {
        self.crc64.get().copied()
    }

    /// CRC-64/XZ of a ready block. Asked by `peer`, which sends it along with the block.
    #[must_use]
    pub fn block_crc64(&self, block: BlockIndex) -> Option<u64> {
        let crc = self.crcs.get(block.0 as usize).filter(|_| self.ready.is_ready(block));
        crc.map(|crc| crc.load(Ordering::Relaxed))
    }

    /// Reads bytes back, as pread(2): the caller has seen them ready.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Error> {
        self.handle.read_at(buf, offset).map_err(Error::io("read", &self.path))
    }

    /// Compares the combined CRC of all blocks with the object's, and records the file as complete unless
    /// they differ; then `forget_blocks` is the caller's next step. Milliseconds even for a terabyte.
    pub fn seal(&self) -> Result<Sealed, Error> {
        let mut disk = self.lock();
        if let Some(seal) = disk.sealed {
            return Ok(if seal.verified { Sealed::Verified } else { Sealed::Unverified });
        }
        if !self.ready.is_full() {
            let (ready, blocks) = (self.ready.count(), self.layout.block_count());
            return Err(Error::NotFull { path: self.path.clone(), ready, blocks });
        }
        // A reply that was given up may still be writing what is there already; its time must not count.
        let _no_writes = self.writing.write().unwrap_or_else(PoisonError::into_inner);
        let found = seal::combine(self.layout, self.crcs.iter().map(|crc| crc.load(Ordering::Relaxed)));
        let outcome = match self.crc64.get().copied() {
            Some(expected) if expected != found => return Ok(Sealed::Mismatch { expected, found }),
            Some(_) => Sealed::Verified,
            None => Sealed::Unverified,
        };
        let modified = self.set_modified()?;
        // No byte of an empty file can be lost.
        let durable = self.layout.size() == 0;
        disk.sealed =
            Some(Seal { modified: modified.into(), verified: outcome == Sealed::Verified, durable });
        self.complete.store(true, Ordering::Release);
        self.unrecorded.store(true, Ordering::Release);
        self.record_or_later(&disk);
        if !self.unrecorded.load(Ordering::Acquire) {
            self.remove_journal();
        }
        Ok(outcome)
    }

    /// Whether `seal` has succeeded, now or in an earlier run.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Marks every block as not ready, after a checksum mismatch. No fetch of this file may be under way.
    pub fn forget_blocks(&self) {
        let mut disk = self.lock();
        self.forget(&mut disk);
        self.record_or_later(&disk);
    }

    /// Marks some blocks as not ready: peers are suspected of having sent wrong ones. The file is not sealed, and
    /// none of these blocks is being fetched.
    pub fn forget_some(&self, blocks: &[BlockIndex]) {
        let disk = self.lock();
        self.remove_journal();
        for block in blocks {
            self.ready.unset(*block);
        }
        self.unrecorded.store(true, Ordering::Release);
        self.record_or_later(&disk);
    }

    fn forget(&self, disk: &mut Disk) {
        self.remove_journal();
        self.complete.store(false, Ordering::Release);
        disk.sealed = None;
        self.ready.clear();
        self.unrecorded.store(true, Ordering::Release);
    }

    /// Sets the object's modification time; returns it as the file system keeps it.
    pub(super) fn set_modified(&self) -> Result<std::time::SystemTime, Error> {
        let set = || {
            self.handle.set_modified(self.object.modified)?;
            self.handle.metadata()?.modified()
        };
        set().map_err(Error::io("set the modification time of", &self.path))
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
