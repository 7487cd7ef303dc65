//! Which blocks of a file a node has, as told by it. Pure. Bits behind the last block never count, whatever the
//! teller says.

use crate::base::BlockIndex;

/// One bit a block, lowest block in the lowest bit of the first word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    blocks: u32,
}

impl Bitmap {
    /// Nothing there.
    #[must_use]
    pub fn new(blocks: u32) -> Self {
        Self { words: vec![0; words_for(blocks)], blocks }
    }

    /// From words; missing ones are zero, surplus bits are dropped.
    #[must_use]
    pub fn from_words(blocks: u32, mut words: Vec<u64>) -> Self {
        words.resize(words_for(blocks), 0);
        if let Some(last) = words.last_mut()
            && !blocks.is_multiple_of(64)
        {
            *last &= (1 << (blocks % 64)) - 1;
        }
        Self { words, blocks }
    }

    /// Its words.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Whether the block is there.
    #[must_use]
    pub fn has(&self, block: BlockIndex) -> bool {
        self.words.get((block.0 / 64) as usize).is_some_and(|word| word >> (block.0 % 64) & 1 == 1)
    }

    /// The block is there now. True if that is news.
    pub fn set(&mut self, block: BlockIndex) -> bool {
        if block.0 >= self.blocks || self.has(block) {
            return false;
        }
        if let Some(word) = self.words.get_mut((block.0 / 64) as usize) {
            *word |= 1 << (block.0 % 64);
        }
        true
    }

    /// The block is not there any more. True if it was.
    pub fn unset(&mut self, block: BlockIndex) -> bool {
        let had = self.has(block);
        if let Some(word) = self.words.get_mut((block.0 / 64) as usize).filter(|_| had) {
            *word &= !(1 << (block.0 % 64));
        }
        had
    }

    /// The first block that is not there.
    #[must_use]
    pub fn first_missing(&self) -> Option<BlockIndex> {
        let at = self.words.iter().position(|word| *word != u64::MAX)?;
        let bit = self.words.get(at)?.trailing_ones();
        let block = u32::try_from(at).ok()?.checked_mul(64)?.checked_add(bit)?;
        (block < self.blocks).then_some(BlockIndex(block))
    }

    /// Blocks in which it differs from `other`, and whether they are there in this one.
    pub(super) fn changes<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (BlockIndex, bool)> + 'a {
        (0u32..).zip(self.words.iter().zip(&other.words)).flat_map(|(at, (own, old))| {
            ones(own ^ old).map(move |bit| (BlockIndex(at * 64 + bit), own >> bit & 1 == 1))
        })
    }
}

/// The bits of a word that are set, the lowest first.
pub(super) fn ones(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(bit)
    })
}

/// Words of a bitmap of so many blocks.
pub(super) fn words_for(blocks: u32) -> usize {
    blocks.div_ceil(64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surplus_bits_do_not_count() {
        let full = Bitmap::from_words(70, vec![u64::MAX; 5]);
        assert_eq!((full.words().len(), full.first_missing()), (2, None));
        assert!(full.has(BlockIndex(69)) && !full.has(BlockIndex(70)) && !full.has(BlockIndex(9999)));
        let mut some = Bitmap::new(70);
        assert!(some.set(BlockIndex(0)) && some.set(BlockIndex(69)));
        assert!(!some.set(BlockIndex(69)) && !some.set(BlockIndex(70)));
        assert_eq!(some.first_missing(), Some(BlockIndex(1)));
        let changes: Vec<_> = some.changes(&Bitmap::new(70)).collect();
        assert_eq!(changes, [(BlockIndex(0), true), (BlockIndex(69), true)]);
        assert_eq!(Bitmap::new(0).first_missing(), None);
    }
}
