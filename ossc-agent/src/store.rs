//! Sparse model files under `MODEL_DIR` and the map of what is in them. (stub: signatures of the contract)
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{BlockIndex, BlockSize, ByteRange, FileId, Layout, Object};

/// Settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the files appear.
    pub model_dir: PathBuf,
    /// Overrides `BlockSize::for_model`.
    pub block_size: Option<BlockSize>,
}

/// Why the store cannot do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// stub
    #[error("stub")]
    Stub,
}

/// Device and inode number, as fstat(2) gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Inode {
    /// st_dev.
    pub dev: u64,
    /// st_ino.
    pub ino: u64,
}

/// All files of one load.
#[derive(Debug)]
pub struct Store {}

impl Store {
    /// Checks everything, then lays out (hidden) or resumes the files. Blocking.
    pub fn open(_config: &Config, _objects: Vec<Object>) -> Result<Self, Error> {
        unimplemented!()
    }
    /// The files, indexed by `FileId`, in name order.
    pub fn files(&self) -> &[Arc<File>] {
        unimplemented!()
    }
    /// One file.
    pub fn file(&self, _id: FileId) -> Option<&Arc<File>> {
        unimplemented!()
    }
    /// Makes a file visible under its name; the gate has marked it, or it is complete.
    pub fn publish(&self, _id: FileId) -> Result<(), Error> {
        unimplemented!()
    }
    /// Writes the ready files that changed.
    pub fn persist(&self) -> Result<(), Error> {
        unimplemented!()
    }
    /// Persists, and hides every file that is not complete.
    pub fn retire(&self) -> Result<(), Error> {
        unimplemented!()
    }
}

/// One model file.
#[derive(Debug)]
pub struct File {}

impl File {
    /// Index.
    pub fn id(&self) -> FileId {
        unimplemented!()
    }
    /// The object it is filled from.
    pub fn object(&self) -> &Object {
        unimplemented!()
    }
    /// Blocks.
    pub fn layout(&self) -> Layout {
        unimplemented!()
    }
    /// Visible path.
    pub fn path(&self) -> &Path {
        unimplemented!()
    }
    /// Identity of the inode.
    pub fn inode(&self) -> Inode {
        unimplemented!()
    }
    /// The agent's own descriptor, opened before any mark exists.
    pub fn fd(&self) -> BorrowedFd<'_> {
        unimplemented!()
    }
    /// Ready map.
    pub fn ready(&self) -> &ReadyMap {
        unimplemented!()
    }
    /// Writes bytes that arrived.
    pub fn write_at(&self, _offset: u64, _bytes: &[u8]) -> Result<(), Error> {
        unimplemented!()
    }
    /// All bytes of `block` are written and have this CRC-64/XZ: publishes it.
    pub fn commit(&self, _block: BlockIndex, _crc64: u64) {
        unimplemented!()
    }
    /// Learns the whole object's CRC from a reply's `x-oss-hash-crc64ecma`.
    pub fn note_crc64(&self, _crc64: u64) {
        unimplemented!()
    }
    /// Reads ready bytes back.
    pub fn read_at(&self, _offset: u64, _buf: &mut [u8]) -> Result<usize, Error> {
        unimplemented!()
    }
    /// All blocks ready: compares the combined CRC with the object's and records the file as complete.
    pub fn seal(&self) -> Result<Sealed, Error> {
        unimplemented!()
    }
    /// Whether `seal` has succeeded, now or in an earlier run.
    pub fn is_complete(&self) -> bool {
        unimplemented!()
    }
    /// Marks every block as not ready (after a checksum mismatch).
    pub fn forget_blocks(&self) {
        unimplemented!()
    }
}

/// Outcome of `seal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// CRC agrees with OSS.
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

/// One bit a block. Bits are set with Release by `File::commit` only.
#[derive(Debug)]
pub struct ReadyMap {}

impl ReadyMap {
    /// Whether the block's bytes are in the file.
    pub fn is_ready(&self, _block: BlockIndex) -> bool {
        unimplemented!()
    }
    /// Whether every byte of the range is there.
    pub fn covers(&self, _range: ByteRange) -> bool {
        unimplemented!()
    }
    /// Number of ready blocks.
    pub fn count(&self) -> u32 {
        unimplemented!()
    }
    /// Whether all are ready.
    pub fn is_full(&self) -> bool {
        unimplemented!()
    }
}
