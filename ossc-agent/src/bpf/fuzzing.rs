//! Entries of the ring buffer, as a function of bytes for fuzzers. Driven by `crate::fuzzing`.

use ossc_common::Record;

use super::record;

/// One entry.
pub(crate) fn access(bytes: &[u8]) {
    let access = record::access(bytes);
    assert!(access.is_none() || bytes.len() == size_of::<Record>(), "another length was taken for a record");
    // Entries of the right length, one behind the other.
    for entry in bytes.chunks_exact(size_of::<Record>()) {
        if let Some(access) = record::access(entry) {
            assert!(access.range.start() <= access.range.end());
        }
    }
}
