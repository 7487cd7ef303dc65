//! The order of a model nobody has watched yet: of every file its head and its end, then (that is the background
//! of `fetch`) file after file. Every loader measured reads the heads of all files before any tensor, and
//! llama.cpp and `torch.load` look at the end of each file too: the C library's seek to the end reads the last
//! partial page, and a zip archive has its directory there. With plain sequential filling these loaders ask for
//! all of their tensors only when the download has ended.

use std::collections::BTreeMap;

use super::Plan;
use super::head::{Head, head_len};
use crate::base::{ByteRange, FileId};

/// Fetched of every file before anything else is known about it. Most heads are smaller: 1.8 MB for a GGUF with
/// 49 000 tokens, tens of KB in safetensors.
const HEAD: u64 = 4 << 20;
/// Fetched of the end of every file: the last page of `fseek(SEEK_END)`, and the directory of a zip archive with
/// thousands of tensors.
const TAIL: u64 = 1 << 20;

/// What to plan before the background starts: head and end of each file, in the order given (by name). Files
/// come with their sizes in bytes.
#[must_use]
pub fn default_plan(files: impl IntoIterator<Item = (FileId, u64)>) -> Plan {
    let mut plan = Plan::new();
    for (file, size) in files {
        let head = ByteRange::new(0, HEAD).clip(size);
        let tail = ByteRange::new(size.saturating_sub(TAIL).max(head.end()), size);
        plan.extend([head, tail].into_iter().filter(|range| !range.is_empty()).map(|range| (file, range)));
    }
    plan
}

/// The order a load begins with: of the `default` plan first what the `learned` one says nothing about, then the
/// learned one.
#[must_use]
pub fn opening(default: &Plan, learned: &Plan) -> Plan {
    let mut known: BTreeMap<FileId, Vec<ByteRange>> = BTreeMap::new();
    for (file, range) in learned {
        known.entry(*file).or_default().push(*range);
    }
    let overlaps = |a: &ByteRange, b: &ByteRange| a.start() < b.end() && b.start() < a.end();
    let is_known = |(file, range): &&(FileId, ByteRange)| {
        known.get(file).is_some_and(|ranges| ranges.iter().any(|other| overlaps(range, other)))
    };
    default.iter().filter(|piece| !is_known(piece)).chain(learned).copied().collect()
}

/// What to plan next of a file whose first bytes, `prefix`, are there: the rest of its metadata head. `None`
/// when the head ends in them or the format is not known. Ask again when the answer has arrived, with a prefix
/// up to its end: a head's length is often only known at its end.
#[must_use]
pub fn rest_of_head(name: &str, size: u64, prefix: &[u8]) -> Option<ByteRange> {
    let have = prefix.len() as u64;
    let end = match head_len(name, prefix) {
        Head::Known(len) => len,
        // Doubling keeps the number of looks small; each one begins at the start.
        Head::NeedMore(at_least) => at_least.max(have.saturating_mul(2)),
        Head::Unknown => return None,
    };
    let rest = ByteRange::new(have, end).clip(size);
    (!rest.is_empty()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_end_of_each_file_come_first() {
        let mib = |start: u64, end: u64| ByteRange::new(start << 20, end << 20);
        let files = [(FileId(0), 100 << 20), (FileId(1), 0), (FileId(2), 3 << 20), (FileId(3), 9 << 19)];
        assert_eq!(
            default_plan(files),
            [
                (FileId(0), mib(0, 4)),
                (FileId(0), mib(99, 100)),
                (FileId(2), mib(0, 3)),
                (FileId(3), mib(0, 4)),
                (FileId(3), ByteRange::new(4 << 20, 9 << 19)),
            ]
        );
    }

    #[test]
    fn the_default_comes_first_where_nothing_was_learned() {
        let piece = |file, start, end| (FileId(file), ByteRange::new(start, end));
        let default = vec![piece(0, 0, 4), piece(0, 9, 10), piece(1, 0, 4), piece(1, 9, 10)];
        let learned = vec![piece(1, 8, 10), piece(0, 3, 6), piece(0, 6, 8)];
        assert_eq!(opening(&default, &vec![]), default);
        assert_eq!(
            opening(&default, &learned),
            [piece(0, 9, 10), piece(1, 0, 4), piece(1, 8, 10), piece(0, 3, 6), piece(0, 6, 8)]
        );
    }

    #[test]
    fn the_rest_of_a_head_is_asked_for_until_it_is_there() {
        let mut head = 10_000u64.to_le_bytes().to_vec();
        head.push(b'{');
        let rest = |prefix: &[u8]| rest_of_head("a.safetensors", 9_000, prefix);
        assert_eq!(rest(&head[..4]), Some(ByteRange::new(4, 8)));
        assert_eq!(rest(&head), Some(ByteRange::new(9, 9_000)));
        head.resize(9_000, b' ');
        assert_eq!(rest(&head), None);
        assert_eq!(rest_of_head("a.bin", 9_000, &head), None);
    }
}
