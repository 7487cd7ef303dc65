//! Entries of the ring buffer, as a function of bytes for fuzzers. Driven by `crate::fuzzing`.

use ossc_common::{Change, Record};

use super::Seen;
use super::record;
use super::resolve::Resolver;
use crate::base::FileId;

/// Bytes of a page here; any power of two would do.
const PAGE: u64 = 4096;

/// One entry, then entries of each length, one behind the other, with what they mean together.
pub(crate) fn access(bytes: &[u8]) {
    let lengths = [size_of::<Record>(), size_of::<Change>()];
    let taken = record::entry(bytes).is_some();
    assert!(!taken || lengths.contains(&bytes.len()), "another length was taken for an entry");
    for length in lengths {
        let mut resolver = Resolver::new(PAGE);
        resolver.resolve(FileId(0));
        for entry in bytes.chunks_exact(length).filter_map(record::entry) {
            resolver.take(entry, &mut |seen| {
                if let Seen::Access(access) = seen {
                    assert!(access.range.start() <= access.range.end());
                }
            });
        }
    }
}
