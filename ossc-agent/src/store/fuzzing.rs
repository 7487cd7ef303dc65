//! What the store reads that others may have written, as functions of bytes for fuzzers: ready files with their
//! journals, and names of objects. Driven by `crate::fuzzing`. A panic means that a record or a name was believed
//! that cannot be.

use std::collections::HashSet;
use std::path::{Component, Path};
use std::time::SystemTime;

use crc_fast::{CrcAlgorithm, checksum};

use super::journal::{Binding, ENTRY};
use super::names::{self, STATE_DIR};
use super::ready_file::Record;
use crate::base::{BlockIndex, ETag, Object};

/// Bytes of the path of a model directory.
const BASE: usize = 20;

/// A ready file without its last 8 bytes, which are the checksum of the others and put there here; otherwise
/// nothing that a fuzzer makes would be looked at. Behind an empty line in its header, a journal; its entries
/// have 16 bytes here and get their checksums too.
pub(crate) fn ready_file(bytes: &[u8]) {
    assert!(Record::decode(bytes, BASE).is_err() || bytes.len() > size_of::<u64>());
    let mark = b"\njournal\n";
    let at = bytes.windows(mark.len()).position(|window| window == mark);
    let (file, journal) = match at {
        Some(at) => (&bytes[..at], &bytes[at + mark.len()..]),
        None => (bytes, &b""[..]),
    };
    let sum = checksum(CrcAlgorithm::Crc64Xz, file);
    let Ok(mut record) = Record::decode(&[file, &sum.to_le_bytes()].concat(), BASE) else { return };
    let encoded = record.encode().expect("a record that was decoded");
    assert_eq!(Record::decode(&encoded, BASE).as_ref(), Ok(&record));
    let binding = Binding::of(&record);
    let mut entries = journal.to_vec();
    for entry in journal.as_chunks::<{ ENTRY - 8 }>().0 {
        let mut numbers = entry.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        let block = numbers.next().and_then(|block| u32::try_from(block).ok());
        if let (Some(block), Some(crc64)) = (block, numbers.next()) {
            entries.extend(binding.entry(BlockIndex(block), crc64));
        }
    }
    let before: Vec<_> = record.ready_blocks().map(|(block, _)| block).collect();
    // Torn at any place, and as it is.
    let start = journal.len() % ENTRY;
    record.replay(&entries[start.min(entries.len())..]);
    record.replay(&entries[journal.len()..]);
    let after: HashSet<_> = record.ready_blocks().map(|(block, _)| block).collect();
    assert!(before.iter().all(|block| after.contains(block)), "a journal has taken a block away");
    assert!(after.iter().all(|block| block.0 < record.layout.block_count()));
    assert!(record.ready_bytes() <= record.object.size);
}

/// Names of objects, one a line, all in one listing.
pub(crate) fn object_names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let object = |name: &str| Object {
        key: format!("m/{name}"),
        name: name.to_owned(),
        size: u64::from(!name.ends_with('/')),
        etag: ETag::new("x"),
        modified: SystemTime::UNIX_EPOCH,
        crc64: None,
    };
    let tree = match names::check(text.split('\n').map(object).collect(), BASE) {
        Ok(tree) => tree,
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains(char::is_control), "it can forge lines of the log: {line:?}");
            return;
        }
    };
    let files: HashSet<&str> = tree.files.iter().map(|(name, _)| name.as_str()).collect();
    assert!(tree.files.is_sorted_by(|(a, _), (b, _)| a < b), "a name is there twice");
    for name in tree.files.iter().map(|(name, _)| name).chain(tree.directories.iter().map(|(_, name)| name)) {
        let path = name.as_path();
        assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "it leaves: {path:?}");
        assert!(!name.as_str().starts_with(STATE_DIR) && BASE + name.as_str().len() + 2 <= 4096);
        assert!(path.ancestors().skip(1).all(|above| !files.contains(above.to_str().unwrap_or_default())));
        assert!(name.ancestors().map(Path::new).eq(above(path)), "{path:?}");
        assert_eq!(Path::new(name.parent()).join(name.leaf()), path);
    }
}

/// The directories above a relative path, nearest last.
fn above(path: &Path) -> impl Iterator<Item = &Path> {
    let mut above: Vec<&Path> =
        path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    above.reverse();
    above.into_iter()
}
