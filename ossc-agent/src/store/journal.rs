//! Blocks committed since a ready file was written: one small append each, so that a killed agent has lost
//! nothing but the blocks in flight. `MODEL_DIR/.ossc/ready/<hash of the name>.journal`:
//!
//! ```text
//! u64 LE   index of the block
//! u64 LE   its CRC-64/XZ
//! u64 LE   CRC-64/XZ of the binding and the 16 bytes before
//! ```
//!
//! The binding is made from what the ready file says: object, version, inode, era, block size. An entry of
//! anything else, a torn one, and one damaged in any way do not agree with it and count for nothing; so a
//! journal need not be emptied with care, and parsing is total. Nothing is synced: page cache and journal
//! are lost together, and then the era is another one. Pure; written and read by `state_dir`.

use crc_fast::{CrcAlgorithm, checksum};

use super::ready_file::Record;
use crate::base::BlockIndex;

/// Bytes of each number.
const WORD: usize = size_of::<u64>();
/// Bytes of an entry.
pub(super) const ENTRY: usize = 3 * WORD;

/// What entries of one file in one era agree with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Binding(u64);

impl Binding {
    /// Of the file that this record is about.
    pub(super) fn of(record: &Record) -> Self {
        let object = &record.object;
        let block_size = record.layout.block_size().bytes();
        // Lengths cannot be mistaken: each text is followed by a byte that none of them contains.
        let text = format!(
            "{}\0{}\0{}\0{}\0{block_size}\0{:?}",
            object.key,
            object.etag.as_str(),
            object.size,
            record.era,
            record.identity
        );
        Self(checksum(CrcAlgorithm::Crc64Xz, text.as_bytes()))
    }

    /// The entry of one block.
    pub(super) fn entry(self, block: BlockIndex, crc64: u64) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        let numbers = [u64::from(block.0), crc64, self.sum(block, crc64)];
        for (place, number) in bytes.as_chunks_mut().0.iter_mut().zip(numbers) {
            *place = u64::to_le_bytes(number);
        }
        bytes
    }

    /// The blocks in a journal.
    pub(super) fn read(self, journal: &[u8]) -> impl Iterator<Item = (BlockIndex, u64)> + '_ {
        journal.as_chunks::<ENTRY>().0.iter().filter_map(move |entry| {
            let mut numbers = entry.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
            let block = BlockIndex(u32::try_from(numbers.next()?).ok()?);
            let (crc64, sum) = (numbers.next()?, numbers.next()?);
            (sum == self.sum(block, crc64)).then_some((block, crc64))
        })
    }

    fn sum(self, block: BlockIndex, crc64: u64) -> u64 {
        let words = [self.0, u64::from(block.0), crc64].map(u64::to_le_bytes);
        checksum(CrcAlgorithm::Crc64Xz, words.as_flattened())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blocks(binding: Binding, journal: &[u8]) -> Vec<(u32, u64)> {
        binding.read(journal).map(|(block, crc)| (block.0, crc)).collect()
    }

    #[test]
    fn entries_of_the_same_file_and_nothing_else_count() {
        let (ours, other) = (Binding(1), Binding(2));
        let mut journal = Vec::new();
        for (binding, block, crc) in [(ours, 3, 33), (other, 4, 44), (ours, 5, 55), (ours, 3, 34)] {
            journal.extend(binding.entry(BlockIndex(block), crc));
        }
        assert_eq!(blocks(ours, &journal), [(3, 33), (5, 55), (3, 34)]);
        assert_eq!(blocks(other, &journal), [(4, 44)]);
        assert_eq!(blocks(ours, &journal[..journal.len() - 1]), [(3, 33), (5, 55)], "torn at the end");
        for at in 0..ENTRY {
            let mut damaged = journal.clone();
            damaged[at] ^= 1;
            assert_eq!(blocks(ours, &damaged), [(5, 55), (3, 34)], "{at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_taken_for_an_entry(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(blocks(Binding(7), &bytes), []);
        }
    }
}
