//! Which peers have each block: a row of bits for each block of a file, so that a choice looks at one place in memory.
//! The table of nodes has the same by node, as it is told; among 500 nodes a block would be looked up at 500 places
//! there. Part of [`Swarm`].

use std::time::Instant;

use super::{At, NodeIndex, Swarm};
use crate::base::BlockIndex;
use crate::peer::bitmap::ones;

/// Random holders that are looked at before all of them are: most can be asked.
const TRIES: u32 = 4;

/// The rows of a file.
#[derive(Debug)]
pub(in crate::peer) struct Holders {
    words: Vec<u64>,
    /// Words of a row.
    width: usize,
}

impl Holders {
    pub(super) fn new(blocks: u32) -> Self {
        Self { words: vec![0; blocks as usize], width: 1 }
    }

    /// The node has the block from now on, or not any more.
    pub(in crate::peer) fn put(&mut self, block: BlockIndex, node: NodeIndex, there: bool) {
        let (word, bit) = (node.index() / 64, 1 << (node.index() % 64));
        if word >= self.width {
            self.widen(word + 1);
        }
        if let Some(word) = self.words.get_mut(block.0 as usize * self.width + word) {
            *word = if there { *word | bit } else { *word & !bit };
        }
    }

    fn widen(&mut self, width: usize) {
        let rows = self.words.chunks(self.width);
        let missing = width - self.width;
        self.words =
            rows.flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0, missing))).collect();
        self.width = width;
    }

    fn row(&self, block: BlockIndex) -> &[u64] {
        let start = block.0 as usize * self.width;
        self.words.get(start..start + self.width).unwrap_or_default()
    }
}

/// The nodes of a row, in the order of the table.
fn nodes(row: &[u64]) -> impl Iterator<Item = NodeIndex> + '_ {
    (0u16..).step_by(64).zip(row).flat_map(|(first, word)| {
        // Below 64.
        ones(*word).filter_map(move |bit| Some(NodeIndex(first + u16::try_from(bit).ok()?)))
    })
}

/// The node of a row that has so many before it.
fn nth(row: &[u64], mut before: u32) -> Option<NodeIndex> {
    for (first, word) in (0u16..).step_by(64).zip(row) {
        match before.checked_sub(word.count_ones()) {
            Some(left) => before = left,
            None => {
                let bit = ones(*word).nth(before as usize)?;
                return Some(NodeIndex(first + u16::try_from(bit).ok()?));
            }
        }
    }
    None
}

impl Swarm {
    fn row(&self, (file, block): At) -> &[u64] {
        let file = self.files.get(file.index()).filter(|_| self.settings.any_holder);
        file.map_or(&[], |file| file.holders.row(block))
    }

    /// Whether a peer said that it has the block.
    pub(in crate::peer) fn has(&self, node: NodeIndex, (file, block): At) -> bool {
        let word =
            self.files.get(file.index()).and_then(|file| file.holders.row(block).get(node.index() / 64));
        word.is_some_and(|word| word >> (node.index() % 64) & 1 == 1)
    }

    /// Peers that have the block and can be asked.
    pub(in crate::peer) fn holders(&self, at: At, now: Instant) -> impl Iterator<Item = NodeIndex> + '_ {
        nodes(self.row(at)).filter(move |node| self.is_usable(*node, now))
    }

    /// Two random ones of those that are not to be left out; maybe the same one twice.
    pub(in crate::peer) fn two_holders(
        &mut self,
        at: At,
        now: Instant,
        is_out: impl Fn(NodeIndex) -> bool,
    ) -> [Option<NodeIndex>; 2] {
        let mut rng = self.rng.fork();
        let row = self.row(at);
        let count: u32 = row.iter().map(|word| word.count_ones()).sum();
        let is_good = |node: &NodeIndex| !is_out(*node) && self.is_usable(*node, now);
        let mut draw = || {
            let mut tries = 0..if count > 0 { TRIES } else { 0 };
            tries.find_map(|_| nth(row, rng.u32(..count)).filter(is_good))
        };
        let mut two = [draw(), draw()];
        if count > 0 && two.contains(&None) {
            let all: Vec<_> = nodes(row).filter(is_good).collect();
            two = [rng.choice(&all).copied(), rng.choice(&all).copied()];
        }
        two
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_grow_with_the_nodes() {
        let mut holders = Holders::new(3);
        let block = BlockIndex(1);
        for node in [1, 63, 64, 300] {
            holders.put(block, NodeIndex(node), true);
        }
        holders.put(block, NodeIndex(63), false);
        holders.put(BlockIndex(3), NodeIndex(1), true);
        let found: Vec<_> = nodes(holders.row(block)).collect();
        assert_eq!(found, [1, 64, 300].map(NodeIndex));
        assert_eq!(
            [0, 2, 3].map(|at| nth(holders.row(block), at)),
            [Some(NodeIndex(1)), Some(NodeIndex(300)), None]
        );
        assert!(holders.row(BlockIndex(0)).iter().chain(holders.row(BlockIndex(2))).all(|word| *word == 0));
        assert!(holders.row(BlockIndex(3)).is_empty());
    }
}
