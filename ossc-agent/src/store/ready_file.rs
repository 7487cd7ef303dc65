//! The ready map on disk: one file an object, `MODEL_DIR/.ossc/ready/<hash of the name>`.
//!
//! A line of JSON, for people and for growth; the bitmap; a CRC-64 for each block; a checksum of it all:
//!
//! ```text
//! {"format":"ossc-ready","version":1,"key":…,…}\n
//! u64 LE × ceil(blocks / 64)   bit i of word w: block 64 w + i is in the data file
//! u64 LE × blocks              CRC-64/XZ of each block; means something only where the bit is set
//! u64 LE                       CRC-64/XZ of all bytes before
//! ```
//!
//! Parsing is total: whatever the bytes, the outcome is a record that holds together or a refusal, and no
//! more is allocated than the file is long. A refused record means that nothing is ready. Pure; written
//! and read by `state_dir`, believed or not by `recover`.

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use crc_fast::{CrcAlgorithm, checksum};
use serde::{Deserialize, Serialize};

use super::journal::Binding;
use super::names::Name;
use crate::base::{BlockIndex, BlockSize, ETag, Layout, Object};

const FORMAT: &str = "ossc-ready";
/// Raised when an older agent would misread the file.
const VERSION: u32 = 1;
/// Bytes of each number in the binary part.
const WORD: usize = size_of::<u64>();

/// What is known on disk about one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The object at the version that the data file is filled from.
    pub(super) object: Object,
    /// Its name, checked.
    pub(super) name: Name,
    /// How the bits divide it.
    pub(super) layout: Layout,
    /// The boot and device instance in which the bits are true without a sync.
    pub(super) era: String,
    /// The inode that the bits are about.
    pub(super) identity: Identity,
    /// Set once the whole file is there and its checksum agreed.
    pub(super) sealed: Option<Seal>,
    /// The object is no longer in OSS; the complete file was left.
    pub(super) gone: bool,
    /// One bit a block.
    pub(super) bits: Vec<u64>,
    /// One CRC-64/XZ a block.
    pub(super) crcs: Vec<u64>,
}

/// An inode that a later file cannot be taken for: numbers are used again, birth times are not, and
/// nobody can set them. The device is left out: its number may change at a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Inode number.
    pub(super) ino: u64,
    /// Birth time, where the file system has it.
    pub(super) born: Option<Stamp>,
}

/// What made a file complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    /// Its modification time then, as the file system keeps it; another one means that somebody wrote.
    pub(super) modified: Stamp,
    /// Whether OSS had a checksum to compare with.
    pub(super) verified: bool,
    /// Whether fsync has succeeded since, so that a power loss does not matter.
    pub(super) durable: bool,
}

/// A point in time as file systems keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// Seconds since 1970, down to before it.
    secs: i64,
    /// Nanoseconds after that second.
    nanos: u32,
}

impl From<SystemTime> for Stamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => {
                Self { secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nanos: after.subsec_nanos() }
            }
            Err(before) => {
                let before = before.duration();
                let secs = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => Self { secs: -secs, nanos: 0 },
                    nanos => Self { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
                }
            }
        }
    }
}

impl Stamp {
    /// The same for the standard library; `None` if it cannot express it.
    fn time(self) -> Option<SystemTime> {
        let whole = Duration::from_secs(self.secs.unsigned_abs());
        let second = if self.secs < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(whole)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(whole)
        };
        second?.checked_add(Duration::from_nanos(u64::from(self.nanos)))
    }
}

/// The line of JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    key: String,
    name: String,
    size: u64,
    etag: String,
    modified: Stamp,
    crc64: Option<u64>,
    block_size: u64,
    era: String,
    #[serde(flatten)]
    identity: Identity,
    sealed: Option<Seal>,
    gone: bool,
}

/// Why a ready file says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRecord {
    /// Cut off or empty.
    #[error("it is too short")]
    Short,
    /// Bytes changed.
    #[error("its checksum is wrong")]
    Checksum,
    /// The first line is not ours.
    #[error("its header is not one of ossc-agent")]
    Header,
    /// Of an agent from the future, or the far past.
    #[error("its version is not known to this ossc-agent")]
    Version,
    /// Well-formed values that cannot be true together.
    #[error("its values contradict each other")]
    Contradiction,
}

impl Record {
    /// The file's contents.
    pub(super) fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec(&Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            key: self.object.key.clone(),
            name: self.object.name.clone(),
            size: self.object.size,
            etag: self.object.etag.as_str().to_owned(),
            modified: self.object.modified.into(),
            crc64: self.object.crc64,
            block_size: self.layout.block_size().bytes(),
            era: self.era.clone(),
            identity: self.identity,
            sealed: self.sealed,
            gone: self.gone,
        })?;
        bytes.reserve(1 + (self.bits.len() + self.crcs.len() + 1) * WORD);
        bytes.push(b'\n');
        for word in self.bits.iter().chain(&self.crcs) {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let sum = checksum(CrcAlgorithm::Crc64Xz, &bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        Ok(bytes)
    }

    /// The record in a file's contents, for a model directory whose path has `base` bytes.
    pub(super) fn decode(bytes: &[u8], base: usize) -> Result<Self, BadRecord> {
        let (body, sum) = bytes.split_last_chunk::<WORD>().ok_or(BadRecord::Short)?;
        if checksum(CrcAlgorithm::Crc64Xz, body) != u64::from_le_bytes(*sum) {
            return Err(BadRecord::Checksum);
        }
        let line = body.iter().position(|byte| *byte == b'\n').ok_or(BadRecord::Header)?;
        let (header, words) = body.split_at(line);
        let words = words.get(1..).unwrap_or_default();
        Self::check_version(header)?;
        let header: Header = serde_json::from_slice(header).map_err(|_| BadRecord::Header)?;
        Self::assemble(header, words, base).ok_or(BadRecord::Contradiction)
    }

    /// Looks at format and version alone, because another version may have any other fields.
    fn check_version(header: &[u8]) -> Result<(), BadRecord> {
        #[derive(Deserialize)]
        struct Version {
            format: String,
            version: u32,
        }
        match serde_json::from_slice(header) {
            Ok(Version { format, version: VERSION }) if format == FORMAT => Ok(()),
            Ok(Version { format, .. }) if format == FORMAT => Err(BadRecord::Version),
            _ => Err(BadRecord::Header),
        }
    }

    /// The blocks whose bits are set, with their checksums.
    pub(super) fn ready_blocks(&self) -> impl Iterator<Item = (BlockIndex, u64)> + '_ {
        let is_set = |block: u32| {
            let word = self.bits.get((block / u64::BITS) as usize).copied().unwrap_or(0);
            word >> (block % u64::BITS) & 1 == 1
        };
        let blocks = (0..self.layout.block_count()).zip(self.crcs.iter().copied());
        blocks.filter(move |(block, _)| is_set(*block)).map(|(block, crc)| (BlockIndex(block), crc))
    }

    /// Adds the blocks of a journal. A complete file has no use for one.
    pub(super) fn replay(&mut self, journal: &[u8]) {
        let blocks = self.layout.block_count();
        for (block, crc64) in Binding::of(self).read(journal).filter(|(block, _)| block.0 < blocks) {
            let word = self.bits.get_mut((block.0 / u64::BITS) as usize);
            if let (Some(word), Some(crc)) = (word, self.crcs.get_mut(block.0 as usize)) {
                *word |= 1 << (block.0 % u64::BITS);
                *crc = crc64;
            }
        }
    }

    /// Bytes of these blocks.
    pub(super) fn ready_bytes(&self) -> u64 {
        self.ready_blocks().map(|(block, _)| self.layout.range_of(block).len()).sum()
    }

    fn assemble(header: Header, words: &[u8], base: usize) -> Option<Self> {
        let layout = Layout::new(header.size, BlockSize::new(header.block_size)?)?;
        let blocks = usize::try_from(layout.block_count()).ok()?;
        let (words, rest) = words.as_chunks::<WORD>();
        let bit_words = blocks.div_ceil(WORD * 8);
        if !rest.is_empty() || words.len() != bit_words.checked_add(blocks)? {
            return None;
        }
        let numbers = |words: &[[u8; WORD]]| words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let (bits, crcs) = words.split_at(bit_words);
        let (bits, crcs): (Vec<u64>, Vec<u64>) = (numbers(bits), numbers(crcs));
        let ready: usize = bits.iter().map(|word| word.count_ones() as usize).sum();
        let beyond = bits.last().is_some_and(|last| blocks % 64 != 0 && last >> (blocks % 64) != 0);
        if beyond || (header.sealed.is_some() && ready != blocks) {
            return None;
        }
        Some(Self {
            name: Name::new(&header.name, base).ok()?,
            object: Object {
                key: header.key,
                name: header.name,
                size: header.size,
                etag: ETag::new(&header.etag),
                modified: header.modified.time()?,
                crc64: header.crc64,
            },
            layout,
            era: header.era,
            identity: header.identity,
            sealed: header.sealed,
            gone: header.gone,
            bits,
            crcs,
        })
    }
}
