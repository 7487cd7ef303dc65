//! What a keeper and an agent take from each other, as functions of bytes for fuzzers: messages, and the shared
//! record of readers without an answer. Both may come from another version of this program, or from one that was
//! killed while it wrote. Driven by `crate::fuzzing`.

use std::os::fd::AsFd;

use super::record::Record;
use super::wire;
use crate::sys::shared::{Memory, WORD};

/// Numbers that the fuzzer may have had in use: as many places as its bytes reach are looked at, and not a million.
const MOST_NUMBERS: u64 = 64;

/// A message.
pub(crate) fn message(bytes: &[u8]) {
    wire::read_back(bytes);
}

/// The words of a record: those of its start, its inbox and its places, by turns.
pub(crate) fn record(bytes: &[u8]) {
    let words: Vec<u64> = bytes.as_chunks::<WORD>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    let Ok(record) = Record::create() else { return };
    let Ok(memory) = record.as_fd().try_clone_to_owned().and_then(Memory::map) else { return };
    record.fill(&memory, &words, MOST_NUMBERS);
    let held = record.take_over();
    let mut numbers: Vec<_> = held.iter().map(|(number, ..)| *number).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), held.len(), "a number is held twice");
    // All of it is in places now, and the next agent finds the same.
    assert_eq!(record.take_over(), held);
    for (number, pid, wanted) in held {
        assert!(number >= 0);
        record.hold(number, pid, wanted);
        record.clear(number);
    }
    assert_eq!(record.take_over(), []);
}
