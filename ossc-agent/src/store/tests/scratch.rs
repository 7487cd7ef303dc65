//! Model directories for tests, objects to lay out, and a look at what is on disk.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crc_fast::{CrcAlgorithm, checksum};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use super::super::{Config, Error, File, Store, open};
use crate::base::{BlockIndex, BlockSize, ByteRange, ETag, Object};

pub(super) const B: u64 = 2 << 20;
pub(super) const BOOT: &str = "this boot";

/// Which kind of file system a test is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Where the test binary lies.
    Disk,
    /// /dev/shm.
    Tmpfs,
}

pub(super) const KINDS: [Kind; 2] = [Kind::Disk, Kind::Tmpfs];

/// A model directory that goes away with the test.
pub(super) struct Scratch {
    outer: TempDir,
    pub(super) config: Config,
}

impl Scratch {
    pub(super) fn new(kind: Kind) -> Self {
        let outer = match kind {
            Kind::Disk => {
                let exe = std::env::current_exe().unwrap();
                tempfile::tempdir_in(exe.parent().unwrap()).unwrap()
            }
            Kind::Tmpfs => tempfile::tempdir_in("/dev/shm").unwrap(),
        };
        let model_dir = outer.path().join("model");
        Self { outer, config: Config { model_dir, block_size: None } }
    }

    pub(super) fn outer(&self) -> &Path {
        self.outer.path()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.config.model_dir.join(name)
    }

    pub(super) fn open(&self, objects: &[Object]) -> Store {
        self.open_in(BOOT, objects)
    }

    pub(super) fn open_in(&self, boot_id: &str, objects: &[Object]) -> Store {
        self.try_open(boot_id, objects).unwrap()
    }

    pub(super) fn try_open(&self, boot_id: &str, objects: &[Object]) -> Result<Store, Error> {
        Store::open_in_boot(&self.config, objects.to_vec(), boot_id)
    }

    /// With files that a keeper held.
    pub(super) fn take_over(&self, objects: &[Object], held: Vec<OwnedFd>) -> Store {
        open::open(&self.config, objects.to_vec(), held, BOOT).unwrap()
    }

    /// Every path below the outer directory, relative, and what regular files contain if they are short.
    pub(super) fn listing(&self) -> BTreeSet<(PathBuf, Vec<u8>)> {
        let mut found = BTreeSet::new();
        let mut todo = vec![self.outer.path().to_owned()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = path.symlink_metadata().unwrap();
                if meta.is_dir() {
                    todo.push(path.clone());
                }
                let short = meta.is_file() && meta.len() < 4096;
                let contents = if short { fs::read(&path).unwrap() } else { Vec::new() };
                found.insert((path.strip_prefix(self.outer.path()).unwrap().to_owned(), contents));
            }
        }
        found
    }
}

/// A small tmpfs of its own.
pub(super) struct Mount(pub(super) PathBuf);

impl Mount {
    pub(super) fn new(path: PathBuf, options: &str) -> Self {
        fs::create_dir_all(&path).unwrap();
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        Self(path)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

pub(super) fn object(name: &str, size: u64) -> Object {
    Object {
        key: format!("models/q/{name}"),
        name: name.to_owned(),
        size,
        etag: ETag::new("one"),
        modified: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        crc64: None,
    }
}

/// The right bytes of a block: its file's first letter, its number, then its length in the same letter.
pub(super) fn block_bytes(file: &File, block: u32) -> Vec<u8> {
    let range = file.layout().range_of(BlockIndex(block));
    let letter = file.object().name.as_bytes()[0].wrapping_add(file.object().etag.as_str().as_bytes()[1]);
    let mut bytes = vec![letter; usize::try_from(range.len()).unwrap()];
    bytes[0] = u8::try_from(block % 251).unwrap();
    bytes
}

/// Writes a block's right bytes and commits it.
pub(super) fn fill_block(file: &File, block: u32) {
    let bytes = block_bytes(file, block);
    let range = file.layout().range_of(BlockIndex(block));
    file.write_at(range.start(), &bytes).unwrap();
    file.commit(BlockIndex(block), checksum(CrcAlgorithm::Crc64Xz, &bytes));
}

/// Writes and commits every missing block.
pub(super) fn fill(file: &File) {
    while let Some(block) = file.ready().first_missing(0) {
        fill_block(file, block);
    }
}

/// Fills and seals.
pub(super) fn complete(file: &File) {
    fill(file);
    file.seal().unwrap();
}

/// Whether every ready block has its right bytes.
pub(super) fn ready_blocks_are_right(file: &File) -> bool {
    (0..file.layout().block_count()).filter(|block| file.ready().is_ready(BlockIndex(*block))).all(|block| {
        let mut found = vec![0; block_bytes(file, block).len()];
        let start = file.layout().range_of(BlockIndex(block)).start();
        file.read_at(start, &mut found).unwrap() == found.len() && found == block_bytes(file, block)
    })
}

/// The whole file.
pub(super) fn whole(file: &File) -> ByteRange {
    ByteRange::new(0, file.object().size)
}

/// A listing of one file of so many blocks of the smallest size.
pub(super) fn blocks(name: &str, blocks: u64) -> Object {
    object(name, blocks * BlockSize::MIN.bytes() - 5)
}

/// The same object at another version.
pub(super) fn version(object: &Object, etag: &str) -> Object {
    Object { etag: ETag::new(etag), ..object.clone() }
}
