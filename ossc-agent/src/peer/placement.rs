//! Which node reads a block from the origin: weighted rendezvous hashing. Pure. Every node computes the same ranks
//! from the same members, with nothing to agree on; when a node comes or goes only its own blocks move, and the
//! next ranks are the backups.
//!
//! A node's score for a block is `-weight / ln(u)`, `u` being a hash of both in (0, 1]: the highest of
//! exponentially distributed values, so that a node of twice the weight wins twice as many blocks (Schindelhauer
//! and Schomaker, "Weighted distributed hash tables", SPAA 2005).

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::id::{Name, ObjectId};
use crate::base::BlockIndex;

/// How many ranks are kept of a block: the owner and two who stand in for it.
pub const RANKS: usize = 3;

/// A node's name as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeKey(u64);

impl NodeKey {
    /// The same on every node.
    #[must_use]
    pub fn of(name: &Name) -> Self {
        Self(xxh3_64(name.as_str().as_bytes()))
    }
}

/// A node that blocks are placed on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Who.
    pub key: NodeKey,
    /// Speed of its network in any unit that all nodes share; 0 owns nothing.
    pub weight: f64,
}

/// A block as bytes to hash.
fn bytes(object: ObjectId, block: BlockIndex) -> [u8; 20] {
    let mut bytes = [0; 20];
    let (id, number) = bytes.split_at_mut(16);
    id.copy_from_slice(&object.bytes());
    number.copy_from_slice(&block.0.to_le_bytes());
    bytes
}

/// How much a node is to own the block; None if it is less than `least`, which most nodes are told without a logarithm.
fn score(candidate: &Candidate, block: &[u8; 20], least: f64) -> Option<f64> {
    let hash = xxh3_64_with_seed(block, candidate.key.0);
    // 53 bits, the precision of an f64; never 0.
    #[expect(clippy::cast_precision_loss, reason = "a number below 2^53 is exact")]
    let uniform = ((hash >> 11) + 1) as f64 / (1u64 << 53) as f64;
    // -ln(u) >= 1 - u; the factor leaves room for rounding.
    if candidate.weight * 1.000_001 < least * (1.0 - uniform) {
        return None;
    }
    Some(-candidate.weight / uniform.ln())
}

/// The first candidates for a block, the owner first; fewer where there are fewer.
pub fn ranks(candidates: &[Candidate], object: ObjectId, block: BlockIndex) -> [Option<usize>; RANKS] {
    let mut best: [Option<(f64, usize)>; RANKS] = [None; RANKS];
    let block = bytes(object, block);
    for (at, candidate) in candidates.iter().enumerate().filter(|(_, candidate)| candidate.weight > 0.0) {
        let least = best.last().copied().flatten().map_or(0.0, |(score, _)| score);
        let Some(score) = score(candidate, &block, least) else { continue };
        let mut entry = (score, at);
        for slot in &mut best {
            let better = slot.is_none_or(|(score, other)| {
                // Equal scores are all but impossible; then the key decides, on every node alike.
                entry.0 > score
                    || (entry.0 >= score
                        && candidates.get(other).is_some_and(|held| candidate.key > held.key))
            });
            if better {
                match slot.replace(entry) {
                    Some(pushed) => entry = pushed,
                    None => break,
                }
            }
        }
    }
    best.map(|slot| slot.map(|(_, at)| at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nodes(weights: &[f64]) -> Vec<Candidate> {
        let candidate = |(number, weight): (usize, &f64)| Candidate {
            key: NodeKey::of(&format!("node-{number}").parse().unwrap()),
            weight: *weight,
        };
        weights.iter().enumerate().map(candidate).collect()
    }

    fn owners(nodes: &[Candidate], blocks: u32) -> Vec<NodeKey> {
        let object = ObjectId::from_bytes([7; 16]);
        (0..blocks).map(|block| nodes[ranks(nodes, object, BlockIndex(block))[0].unwrap()].key).collect()
    }

    #[test]
    fn blocks_are_shared_by_weight() {
        let nodes = nodes(&[1.0, 1.0, 2.0, 0.0]);
        let owners = owners(&nodes, 8000);
        let count = |at: usize| owners.iter().filter(|owner| **owner == nodes[at].key).count();
        for (at, expected) in [(0, 2000), (1, 2000), (2, 4000)] {
            assert!(count(at).abs_diff(expected) < expected * 15 / 100, "node {at}: {}", count(at));
        }
        assert_eq!(count(3), 0);
        assert_eq!(ranks(&[], ObjectId::from_bytes([0; 16]), BlockIndex(0)), [None; RANKS]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn only_the_blocks_of_who_comes_or_goes_move(count in 2usize..60, gone in 0usize..60, seed in any::<u8>()) {
            let gone = gone % count;
            let all = nodes(&vec![1.0; count]);
            let mut rest = all.clone();
            rest.remove(gone);
            let object = ObjectId::from_bytes([seed; 16]);
            let mut moved = 0;
            for block in (0..800).map(BlockIndex) {
                let before = ranks(&all, object, block).map(|rank| rank.map(|at| all[at].key));
                let after = ranks(&rest, object, block).map(|rank| rank.map(|at| rest[at].key));
                if before[0] == Some(all[gone].key) {
                    moved += 1;
                    // The second becomes the first.
                    prop_assert_eq!(after[0], before[1]);
                } else {
                    prop_assert_eq!(after[0], before[0]);
                }
            }
            // About 1/n of the blocks; four standard deviations of room.
            let share = 800.0 / f64::from(u32::try_from(count).unwrap());
            prop_assert!(f64::from(moved) < share + 4.0 * share.sqrt(), "{} of 800 moved, n = {}", moved, count);
        }

        #[test]
        fn ranks_do_not_depend_on_the_order_of_members(count in 1usize..20, turn in 0usize..20) {
            let all = nodes(&vec![3.0; count]);
            let mut turned = all.clone();
            turned.rotate_left(turn % count);
            for block in (0..50).map(BlockIndex) {
                let object = ObjectId::from_bytes([1; 16]);
                let keys = |nodes: &[Candidate]| ranks(nodes, object, block).map(|rank| rank.map(|at| nodes[at].key));
                prop_assert_eq!(keys(&all), keys(&turned));
            }
        }
    }
}
