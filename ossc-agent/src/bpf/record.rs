//! From the bytes of a ring buffer entry to what they tell. Total: bytes that are no record give `None`.

use ossc_common::{
    CHANGE_END, CHANGE_FORK, CHANGE_REMAP, CHANGE_UNMAP, Change, KIND_FAULT, KIND_MAP, KIND_OPEN,
    KIND_PAGE_FAULT, KIND_READ, KIND_STALL, Record,
};

use super::Stall;
use crate::base::{Access, AccessKind, ByteRange, FileId};

/// What an entry of the ring buffer tells. Ranges of files are as the reader asked for them: they may reach beyond the
/// end of the file, and are empty for an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// A file was touched.
    Access(Access),
    /// A file was mapped at this address.
    Mapped(Access, u64),
    /// A page fault.
    PageFault(PageFault),
    /// A call had to wait.
    Stall(Stall),
    /// Memory changed.
    Changed(Moment, Changed),
}

/// Who and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) at_ns: u64,
}

/// A page fault near a watched mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageFault {
    pub(super) by: Moment,
    pub(super) address: u64,
    /// As the processor tells it.
    pub(super) error: u64,
}

/// A change of memory, as ranges of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Changed {
    Unmapped(ByteRange),
    Remapped { from: ByteRange, to: ByteRange },
    Forked { parent: u32 },
    Ended,
}

/// Decodes an entry.
pub(super) fn entry(bytes: &[u8]) -> Option<Entry> {
    if bytes.len() == size_of::<Change>() { changed(bytes) } else { touched(bytes) }
}

fn touched(bytes: &[u8]) -> Option<Entry> {
    let record = decode(bytes)?;
    let by = Moment { pid: record.tgid, tid: record.tid, at_ns: record.at_ns };
    let file = FileId(record.file);
    let access = |kind| Access {
        file,
        range: range(record.offset, record.length),
        kind,
        pid: by.pid,
        tid: by.tid,
        at_ns: by.at_ns,
    };
    Some(match record.kind {
        KIND_OPEN => Entry::Access(access(AccessKind::Open)),
        KIND_MAP => Entry::Mapped(access(AccessKind::Map), record.address),
        KIND_READ => Entry::Access(access(AccessKind::Read)),
        KIND_FAULT => Entry::Access(access(AccessKind::Fault)),
        KIND_PAGE_FAULT => Entry::PageFault(PageFault { by, address: record.address, error: record.length }),
        KIND_STALL => Entry::Stall(Stall {
            file,
            pid: by.pid,
            tid: by.tid,
            at_ns: by.at_ns,
            duration_ns: record.length,
        }),
        _ => return None,
    })
}

fn changed(bytes: &[u8]) -> Option<Entry> {
    let mut rest = bytes;
    let at_ns = u64_from(&mut rest)?;
    let to = range(u64_from(&mut rest)?, u64_from(&mut rest)?);
    let (from, from_length) = (u64_from(&mut rest)?, u64_from(&mut rest)?);
    let kind = u32_from(&mut rest)?;
    let by = Moment { pid: u32_from(&mut rest)?, tid: u32_from(&mut rest)?, at_ns };
    let changed = match kind {
        CHANGE_UNMAP => Changed::Unmapped(to),
        CHANGE_REMAP => Changed::Remapped { from: range(from, from_length), to },
        CHANGE_FORK => Changed::Forked { parent: u32::try_from(from).ok()? },
        CHANGE_END => Changed::Ended,
        _ => return None,
    };
    Some(Entry::Changed(by, changed))
}

fn range(start: u64, length: u64) -> ByteRange {
    ByteRange::new(start, start.saturating_add(length))
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let mut rest = bytes;
    let record = Record {
        at_ns: u64_from(&mut rest)?,
        offset: u64_from(&mut rest)?,
        length: u64_from(&mut rest)?,
        address: u64_from(&mut rest)?,
        file: u32_from(&mut rest)?,
        kind: u32_from(&mut rest)?,
        tgid: u32_from(&mut rest)?,
        tid: u32_from(&mut rest)?,
    };
    rest.is_empty().then_some(record)
}

fn u64_from(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_ne_bytes(*number))
}

fn u32_from(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_ne_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: [u64; 4], halves: [u32; 4]) -> Vec<u8> {
        let words = words.iter().flat_map(|word| word.to_ne_bytes());
        words.chain(halves.iter().flat_map(|half| half.to_ne_bytes())).collect()
    }

    #[test]
    fn a_record_becomes_an_access() {
        let entry = bytes([7, 4096, 100, 0x7f00_0000_0000], [3, KIND_MAP, 41, 42]);
        let expected = Access {
            file: FileId(3),
            range: ByteRange::new(4096, 4196),
            kind: AccessKind::Map,
            pid: 41,
            tid: 42,
            at_ns: 7,
        };
        assert_eq!(super::entry(&entry), Some(Entry::Mapped(expected, 0x7f00_0000_0000)));
    }

    fn change(words: [u64; 5], kind: u32) -> Vec<u8> {
        let words = words.iter().flat_map(|word| word.to_ne_bytes());
        words.chain([kind, 41, 42, 0].iter().flat_map(|half| half.to_ne_bytes())).collect()
    }

    #[test]
    fn changes_of_memory_are_told_apart() {
        let by = Moment { pid: 41, tid: 42, at_ns: 7 };
        let (from, to) = (ByteRange::new(4096, 8192), ByteRange::new(65536, 65636));
        for (kind, expected) in [
            (CHANGE_UNMAP, Changed::Unmapped(to)),
            (CHANGE_REMAP, Changed::Remapped { from, to }),
            (CHANGE_FORK, Changed::Forked { parent: 4096 }),
            (CHANGE_END, Changed::Ended),
        ] {
            let entry = change([7, 65536, 100, 4096, 4096], kind);
            assert_eq!(super::entry(&entry), Some(Entry::Changed(by, expected)));
        }
    }

    #[test]
    fn other_bytes_give_nothing() {
        let entry = bytes([0; 4], [0, KIND_READ, 0, 0]);
        assert_eq!(super::entry(&entry[1..]), None, "too short");
        assert_eq!(super::entry(&[&entry[..], &[0]].concat()), None, "too long");
        assert_eq!(super::entry(&bytes([0; 4], [0, 99, 0, 0])), None, "unknown kind");
        assert_eq!(super::entry(&[]), None);
        assert_eq!(super::entry(&change([0; 5], 99)), None, "unknown change");
    }

    #[test]
    fn a_range_beyond_the_largest_offset_ends_there() {
        let entry = bytes([0, u64::MAX - 1, 100, 0], [0, KIND_READ, 0, 0]);
        let Some(Entry::Access(access)) = super::entry(&entry) else { panic!("{entry:?}") };
        assert_eq!(access.range, ByteRange::new(u64::MAX - 1, u64::MAX));
    }
}
