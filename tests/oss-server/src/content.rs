//! Where an object's bytes are, and how they are read and checksummed.
//!
//! An object's content is bytes in memory, a file, computed bytes, or a tile that repeats. [`Source`] is content opened
//! for one reply: it fills buffers, and where the bytes already lie in a file it names the file and the place, so that
//! the sender uses sendfile(2) instead of copying.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use crc_fast::CrcAlgorithm::Crc64Xz;
use crc_fast::{Digest, checksum, checksum_combine};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::synthetic::{self, TILE};

/// Bytes read at once when a checksum is computed.
const CHECKSUM_STEP: usize = 1 << 20;

/// Where an object's bytes are.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// In memory.
    Bytes(Arc<[u8]>),
    /// In a file of the served directory.
    File {
        /// Full path of the file.
        path: PathBuf,
        /// Its size when the directory was read.
        size: u64,
    },
    /// Computed by [`synthetic::fill`].
    Synthetic {
        /// Seed of the content.
        seed: u64,
        /// Bytes of the object.
        size: u64,
    },
    /// As [`synthetic::fill_tiled`] computes it, sent from memory.
    Tiled {
        /// Seed of the content.
        seed: u64,
        /// Bytes of the object.
        size: u64,
    },
}

impl Content {
    /// Bytes of the object.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::File { size, .. } | Self::Synthetic { size, .. } | Self::Tiled { size, .. } => *size,
        }
    }

    /// Opens the content for one reply.
    pub(crate) fn open(&self) -> io::Result<Source> {
        Ok(match self {
            Self::Bytes(bytes) => Source::Bytes(Arc::clone(bytes)),
            Self::File { path, .. } => Source::File(File::open(path)?),
            Self::Synthetic { seed, .. } => Source::Synthetic(*seed),
            Self::Tiled { seed, .. } => Source::Tiled { tile: tile()?, seed: *seed },
        })
    }

    /// CRC-64/XZ of the whole object. Reads all of it, except for a tiled object, where one turn of the tile is enough.
    pub(crate) fn crc64(&self) -> io::Result<u64> {
        match self {
            Self::Bytes(bytes) => Ok(checksum(Crc64Xz, bytes)),
            Self::Tiled { size, .. } => {
                let source = self.open()?;
                let turn = crc_of(&source, TILE.min(*size))?;
                let rest = crc_of(&source, size % TILE)?;
                let turns = size / TILE;
                Ok(if turns == 0 {
                    turn
                } else {
                    checksum_combine(Crc64Xz, repeated(turn, turns), rest, size % TILE)
                })
            }
            Self::File { size, .. } | Self::Synthetic { size, .. } => crc_of(&self.open()?, *size),
        }
    }
}

/// CRC of the first `size` bytes.
fn crc_of(source: &Source, size: u64) -> io::Result<u64> {
    let mut digest = Digest::new(Crc64Xz);
    let mut buffer = vec![0; CHECKSUM_STEP];
    let mut at = 0;
    while at < size {
        let len = usize::try_from(size - at).unwrap_or(usize::MAX).min(CHECKSUM_STEP);
        source.read_at(at, &mut buffer[..len])?;
        digest.update(&buffer[..len]);
        at += u64::try_from(len).unwrap_or(0);
    }
    Ok(digest.finalize())
}

/// CRC of `turns` whole tiles in a row, by doubling.
fn repeated(turn: u64, turns: u64) -> u64 {
    let (mut whole, mut power, mut power_len, mut left) = (0, turn, TILE, turns);
    while left > 0 {
        if left & 1 == 1 {
            whole = checksum_combine(Crc64Xz, whole, power, power_len);
        }
        left >>= 1;
        if left > 0 {
            power = checksum_combine(Crc64Xz, power, power, power_len);
            power_len *= 2;
        }
    }
    whole
}

/// Content opened for one reply.
#[derive(Debug)]
pub(crate) enum Source {
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// An open file.
    File(File),
    /// Computed bytes with this seed.
    Synthetic(u64),
    /// The tile in memory, and the seed that says where in it the object begins.
    Tiled {
        /// The memory file.
        tile: Arc<File>,
        /// Seed of the content.
        seed: u64,
    },
}

impl Source {
    /// Fills `buffer` with the object's bytes from `offset`.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => {
                let from = usize::try_from(offset).map_err(|_| ErrorKind::UnexpectedEof)?;
                let to = from.checked_add(buffer.len()).ok_or(ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(bytes.get(from..to).ok_or(ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Self::File(file) => file.read_exact_at(buffer, offset),
            Self::Synthetic(seed) => {
                synthetic::fill(*seed, offset, buffer);
                Ok(())
            }
            Self::Tiled { seed, .. } => {
                synthetic::fill_tiled(*seed, offset, buffer);
                Ok(())
            }
        }
    }

    /// The file that holds the bytes from `offset`, their place in it, and how many follow there; `None` when they are
    /// in no file.
    pub(crate) fn place(&self, offset: u64) -> Option<(&File, u64, u64)> {
        match self {
            Self::Bytes(_) | Self::Synthetic(_) => None,
            Self::File(file) => Some((file, offset, u64::MAX)),
            Self::Tiled { tile, seed } => {
                let (place, room) = synthetic::tile_place(*seed, offset);
                Some((tile, place, u64::try_from(room).unwrap_or(u64::MAX)))
            }
        }
    }
}

/// The memory file with the one tile of this process; made when first asked for.
fn tile() -> io::Result<Arc<File>> {
    static MADE: OnceLock<Arc<File>> = OnceLock::new();
    if let Some(file) = MADE.get() {
        return Ok(Arc::clone(file));
    }
    let file = File::from(memfd_create("oss-server-tile", MFdFlags::MFD_CLOEXEC)?);
    let mut buffer = vec![0; CHECKSUM_STEP];
    let mut at = 0;
    while at < TILE {
        synthetic::fill_tile(at, &mut buffer);
        file.write_all_at(&buffer, at)?;
        at += u64::try_from(buffer.len()).unwrap_or(TILE);
    }
    Ok(Arc::clone(MADE.get_or_init(|| Arc::new(file))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_every_form_is_that_of_its_bytes() {
        let bytes: Arc<[u8]> = b"123456789".as_slice().into();
        assert_eq!(Content::Bytes(bytes).crc64().unwrap(), 0x995d_c9bb_df19_39fa);
        for size in [0, 1, 4097, (1 << 20) + 5] {
            let mut whole = vec![0; usize::try_from(size).unwrap()];
            synthetic::fill(9, 0, &mut whole);
            assert_eq!(Content::Synthetic { seed: 9, size }.crc64().unwrap(), checksum(Crc64Xz, &whole));
        }
    }

    #[test]
    fn the_checksum_of_a_tiled_object_is_combined_right() {
        for size in [0, 77, TILE, 3 * TILE + 12_345] {
            let content = Content::Tiled { seed: 4, size };
            let plain = crc_of(&content.open().unwrap(), size).unwrap();
            assert_eq!(content.crc64().unwrap(), plain, "{size}");
        }
    }

    #[test]
    fn the_tile_in_memory_is_the_computed_one() {
        let source = Content::Tiled { seed: 11, size: 2 * TILE }.open().unwrap();
        for offset in [0, 4095, TILE - 50, TILE + 9] {
            let (file, place, room) = source.place(offset).unwrap();
            let mut bytes = vec![0; usize::try_from(room.min(100)).unwrap()];
            file.read_exact_at(&mut bytes, place).unwrap();
            assert_eq!(synthetic::check_tiled(11, offset, &bytes), None);
        }
    }
}
