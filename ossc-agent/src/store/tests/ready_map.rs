//! The ready map by itself, on one thread. Between threads: `interleaving`.

use proptest::prelude::*;

use crate::base::{BlockIndex, BlockSize, ByteRange, Layout};
use crate::store::ready_map::ReadyMap;

const B: u64 = 2 << 20;

/// A map over `blocks` blocks, the last one short, with these ready.
fn map(blocks: u64, ready: &[u32]) -> ReadyMap {
    let map = ReadyMap::new(Layout::new(blocks * B - B / 2, BlockSize::MIN).unwrap());
    for block in ready {
        assert!(map.set(BlockIndex(*block)));
    }
    map
}

#[test]
fn counts_and_fills() {
    let map = map(130, &[0, 64, 129]);
    assert_eq!((map.count(), map.is_full()), (3, false));
    assert!(!map.set(BlockIndex(64)), "already set");
    assert!(!map.set(BlockIndex(130)), "no such block");
    for block in 0..130 {
        map.set(BlockIndex(block));
    }
    assert_eq!((map.count(), map.is_full()), (130, true));
    assert!(map.covers(ByteRange::new(0, u64::MAX)));
    map.clear();
    assert_eq!((map.count(), map.is_full(), map.is_ready(BlockIndex(0))), (0, false, false));
}

#[test]
fn covers_only_what_is_there() {
    let map = map(4, &[0, 1, 3]);
    let end = 4 * B - B / 2;
    for (start, stop, yes) in [
        (0, 1, true),
        (0, 2 * B, true),
        (0, 2 * B + 1, false),
        (2 * B - 1, 2 * B, true),
        (2 * B, 2 * B, true),
        (2 * B, 3 * B, false),
        (3 * B, end, true),
        (3 * B, u64::MAX, true),
        (3 * B - 1, u64::MAX, false),
        (end, u64::MAX, true),
        (end + 9 * B, u64::MAX, true),
    ] {
        assert_eq!(map.covers(ByteRange::new(start, stop)), yes, "{start}..{stop}");
    }
}

#[test]
fn missing_runs_are_cut_at_the_limit_and_at_ready_blocks() {
    let map = map(130, &[0, 3, 70, 71]);
    assert_eq!(map.missing_runs(0, 40).collect::<Vec<_>>(), [1..3, 4..44, 44..70, 72..112, 112..130]);
    assert!(map.missing_runs(128, 40).eq(std::iter::once(128..130)));
    assert_eq!(map.missing_runs(130, 40).count(), 0);
    assert_eq!(map.missing_runs(u32::MAX, 0).count(), 0);
    assert_eq!(map.first_missing(70), Some(72));
    assert_eq!(ReadyMap::new(Layout::new(0, BlockSize::MIN).unwrap()).first_missing(0), None);
}

proptest! {
    #[test]
    fn agrees_with_a_list_of_blocks(
        blocks in 1..200_u32,
        short in 0..B,
        set in prop::collection::vec(0..210_u32, 0..300),
        ranges in prop::collection::vec((0..210 * B, 0..210 * B), 1..20),
        from in 0..210_u32,
        most in 0..50_u32,
    ) {
        let size = u64::from(blocks) * B - short;
        let map = ReadyMap::new(Layout::new(size, BlockSize::MIN).unwrap());
        let mut ready = vec![false; blocks as usize];
        for block in set {
            let newly = ready.get_mut(block as usize).is_some_and(|ready| !std::mem::replace(ready, true));
            prop_assert_eq!(map.set(BlockIndex(block)), newly);
        }
        prop_assert_eq!(map.count() as usize, ready.iter().filter(|ready| **ready).count());
        for (one, other) in ranges {
            let range = ByteRange::new(one.min(other), one.max(other));
            let needs = |block: &u32| {
                let start = u64::from(*block) * B;
                !range.is_empty() && range.start() < (start + B).min(size) && start < range.end()
            };
            let covered = (0..blocks).filter(needs).all(|block| ready[block as usize]);
            prop_assert_eq!(map.covers(range), covered, "{}", range);
        }
        let missing: Vec<u32> = (from..blocks).filter(|block| !ready[*block as usize]).collect();
        prop_assert_eq!(map.first_missing(from), missing.first().copied());
        let runs: Vec<_> = map.missing_runs(from, most).collect();
        prop_assert!(runs.iter().all(|run| (1..=most.max(1) as usize).contains(&run.len())), "{:?}", runs);
        prop_assert_eq!(runs.into_iter().flatten().collect::<Vec<_>>(), missing);
    }
}
