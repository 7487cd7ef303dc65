//! The load as others may look at it: what is known of each block, and of the connections. Read by `status`; nothing
//! here changes anything.

use crate::base::BlockIndex;

/// One block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockState {
    /// Nobody fetches it yet.
    Missing,
    /// It is on its way.
    Fetching,
    /// It was there at the start.
    AtStart,
    /// It came from OSS.
    Origin,
    /// It came from a peer.
    Peer,
}

/// Where the ready blocks of a file came from.
#[derive(Debug, Default)]
pub(super) struct Provenance {
    /// One bit a block, as in `ReadyMap::snapshot`.
    at_start: Vec<u64>,
    from_peers: Vec<u64>,
}

impl Provenance {
    /// These blocks are there at the start.
    pub(super) fn new(at_start: Vec<u64>) -> Self {
        let from_peers = vec![0; at_start.len()];
        Self { at_start, from_peers }
    }

    /// A peer sent this block.
    pub(super) fn peer_sent(&mut self, block: BlockIndex) {
        if let Some(word) = self.from_peers.get_mut(word_of(block)) {
            *word |= bit_of(block);
        }
    }

    /// What is there of the block is forgotten.
    pub(super) fn forget(&mut self, block: BlockIndex) {
        for words in [&mut self.at_start, &mut self.from_peers] {
            if let Some(word) = words.get_mut(word_of(block)) {
                *word &= !bit_of(block);
            }
        }
    }

    /// What is there of all blocks is forgotten.
    pub(super) fn forget_all(&mut self) {
        self.at_start.fill(0);
        self.from_peers.fill(0);
    }

    /// Where a ready block came from.
    pub(super) fn of_ready(&self, block: BlockIndex) -> BlockState {
        let has = |words: &[u64]| words.get(word_of(block)).is_some_and(|word| word & bit_of(block) != 0);
        if has(&self.at_start) {
            BlockState::AtStart
        } else if has(&self.from_peers) {
            BlockState::Peer
        } else {
            BlockState::Origin
        }
    }
}

fn word_of(block: BlockIndex) -> usize {
    (block.0 / u64::BITS) as usize
}

fn bit_of(block: BlockIndex) -> u64 {
    1 << (block.0 % u64::BITS)
}

/// The connections to OSS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// How many may work now.
    pub at_work: u32,
    /// How many may at most.
    pub most: u32,
    /// Those of each NIC, in the order of the configuration; of the routes' choice where none is named.
    pub nics: Vec<NicView>,
}

/// One NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NicView {
    /// Connections that go through it, idle ones included.
    pub connections: u32,
    /// False while it rests because requests through it failed.
    pub is_up: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_remember_where_they_came_from() {
        let mut provenance = Provenance::new(vec![1, 0]);
        provenance.peer_sent(BlockIndex(64));
        let of =
            |provenance: &Provenance| [0, 1, 64, 999].map(|block| provenance.of_ready(BlockIndex(block)));
        use BlockState::{AtStart, Origin, Peer};
        assert_eq!(of(&provenance), [AtStart, Origin, Peer, Origin]);
        provenance.forget(BlockIndex(64));
        assert_eq!(of(&provenance), [AtStart, Origin, Origin, Origin]);
        provenance.forget_all();
        assert_eq!(of(&provenance), [Origin; 4]);
    }
}
