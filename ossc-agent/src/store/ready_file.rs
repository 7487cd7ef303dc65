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

use std::time::{Duration, SystemTime};

use crc_fast::{CrcAlgorithm, checksum};
use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> Record {
        let object = Object {
            key: "models/q/a b+模.gguf".to_owned(),
            name: "a b+模.gguf".to_owned(),
            size: (2 << 20) * 70 + 5,
            etag: ETag::new("5B3C1A2E"),
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            crc64: Some(u64::MAX - 1),
        };
        Record {
            name: Name::new(&object.name, 0).unwrap(),
            layout: Layout::new(object.size, BlockSize::MIN).unwrap(),
            object,
            era: "b".to_owned(),
            identity: Identity { ino: 12, born: Some(Stamp { secs: 5, nanos: 6 }) },
            sealed: None,
            gone: false,
            bits: vec![0x8000_0000_0000_0001, 0x7f],
            crcs: (0..71).collect(),
        }
    }

    /// The same bytes with a right checksum, so that the checks behind it are reached.
    fn signed(mut body: Vec<u8>) -> Vec<u8> {
        let sum = checksum(CrcAlgorithm::Crc64Xz, &body);
        body.extend_from_slice(&sum.to_le_bytes());
        body
    }

    fn edited(from: &str, to: &str) -> Vec<u8> {
        let bytes = record().encode().unwrap();
        let body = &bytes[..bytes.len() - WORD];
        let line = body.iter().position(|b| *b == b'\n').unwrap();
        let header = String::from_utf8(body[..line].to_vec()).unwrap();
        assert!(header.contains(from), "{header}");
        let mut out = header.replace(from, to).into_bytes();
        out.extend_from_slice(&body[line..]);
        signed(out)
    }

    #[test]
    fn what_is_written_is_read() {
        let record = record();
        assert_eq!(Record::decode(&record.encode().unwrap(), 0), Ok(record.clone()));
        let seal = Seal { modified: Stamp { secs: -3, nanos: 9 }, verified: true, durable: false };
        let complete = Record { sealed: Some(seal), gone: true, bits: vec![u64::MAX, 0x7f], ..record };
        assert_eq!(Record::decode(&complete.encode().unwrap(), 0), Ok(complete));
    }

    #[test]
    fn damage_is_noticed() {
        let bytes = record().encode().unwrap();
        for len in [0, 7, 8, 20, bytes.len() - 1] {
            assert!(Record::decode(&bytes[..len], 0).is_err(), "{len}");
        }
        for at in (0..bytes.len()).step_by(13) {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert_eq!(Record::decode(&bad, 0), Err(BadRecord::Checksum), "{at}");
        }
        for (bytes, why) in [
            (signed(Vec::new()), BadRecord::Header),
            (signed(b"{}\n".to_vec()), BadRecord::Header),
            (edited("ossc-ready", "other-ready"), BadRecord::Header),
            (edited("\"version\":1", "\"version\":2"), BadRecord::Version),
            (edited("\"size\":", "\"size\":1"), BadRecord::Contradiction),
            (edited("2097152", "2097153"), BadRecord::Contradiction),
            (edited("\"name\":\"", "\"name\":\"../"), BadRecord::Contradiction),
            (edited("\"secs\":1700000000", "\"secs\":9223372036854775808"), BadRecord::Header),
            (edited("\"gone\":false", "\"gone\":0"), BadRecord::Header),
            (
                edited(
                    "\"sealed\":null",
                    "\"sealed\":{\"modified\":{\"secs\":0,\"nanos\":0},\"verified\":true,\"durable\":true}",
                ),
                BadRecord::Contradiction,
            ),
        ] {
            assert_eq!(Record::decode(&bytes, 0), Err(why));
        }
        let stray = Record { bits: vec![0, 0x80], ..record() };
        assert_eq!(Record::decode(&stray.encode().unwrap(), 0), Err(BadRecord::Contradiction));
    }

    #[test]
    fn times_survive_the_way() {
        for (secs, nanos) in [(0, 0), (1, 999_999_999), (-1, 1), (-5, 0), (4_000_000_000, 7)] {
            let stamp = Stamp { secs, nanos };
            assert_eq!(Stamp::from(stamp.time().unwrap()), stamp);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Record::decode(&body, 0).is_err());
            prop_assert!(Record::decode(&signed(body), 0).is_err());
        }

        #[test]
        fn no_header_numbers_make_it_panic(size: u64, block: u64, secs: i64, nanos: u32) {
            let header = format!(
                r#"{{"format":"ossc-ready","version":1,"key":"k","name":"n","size":{size},"etag":"e",
                "modified":{{"secs":{secs},"nanos":{nanos}}},"crc64":null,"block_size":{block},"era":"",
                "ino":1,"born":null,"sealed":null,"gone":false}}"#
            ).replace('\n', "") + "\n";
            let outcome = Record::decode(&signed(header.into_bytes()), 0);
            prop_assert!(outcome.is_err() || size == 0);
        }
    }
}
