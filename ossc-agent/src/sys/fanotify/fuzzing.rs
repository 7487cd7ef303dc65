//! The bytes of a read from a fanotify group, as a function for fuzzers. Driven by `crate::fuzzing`.

use super::record::{METADATA_LEN, Records};

/// One batch.
pub(crate) fn records(bytes: &[u8]) {
    let mut count = 0;
    for record in Records::new(bytes) {
        count += 1;
        if let Ok(record) = record {
            assert!(record.fd >= 0, "a number that is no descriptor");
        }
    }
    assert!(count <= bytes.len() / METADATA_LEN + 2, "{count} records in {} bytes", bytes.len());
}
