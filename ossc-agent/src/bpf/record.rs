//! From the bytes of a ring buffer entry to an [`Access`]. Total: bytes that are no record give `None`.

use ossc_common::{KIND_FAULT, KIND_MAP, KIND_OPEN, KIND_READ, Record};

use crate::base::{Access, AccessKind, ByteRange, FileId};

/// The access that an entry of the ring buffer tells of. The range is as the reader asked for it: it may
/// reach beyond the end of the file, and it is empty for an open.
pub(super) fn access(bytes: &[u8]) -> Option<Access> {
    let record = decode(bytes)?;
    let kind = match record.kind {
        KIND_OPEN => AccessKind::Open,
        KIND_MAP => AccessKind::Map,
        KIND_READ => AccessKind::Read,
        KIND_FAULT => AccessKind::Fault,
        _ => return None,
    };
    Some(Access {
        file: FileId(record.file),
        range: ByteRange::new(record.offset, record.offset.saturating_add(record.length)),
        kind,
        pid: record.tgid,
        tid: record.tid,
        at_ns: record.at_ns,
    })
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
        assert_eq!(access(&entry), Some(expected));
    }

    #[test]
    fn other_bytes_give_nothing() {
        let entry = bytes([0; 4], [0, KIND_READ, 0, 0]);
        assert_eq!(access(&entry[1..]), None, "too short");
        assert_eq!(access(&[&entry[..], &[0]].concat()), None, "too long");
        assert_eq!(access(&bytes([0; 4], [0, 99, 0, 0])), None, "unknown kind");
        assert_eq!(access(&[]), None);
    }

    #[test]
    fn a_range_beyond_the_largest_offset_ends_there() {
        let entry = bytes([0, u64::MAX - 1, 100, 0], [0, KIND_READ, 0, 0]);
        assert_eq!(access(&entry).unwrap().range, ByteRange::new(u64::MAX - 1, u64::MAX));
    }
}
