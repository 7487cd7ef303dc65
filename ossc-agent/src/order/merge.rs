//! From the recordings of several runs to one plan. Pure.
//!
//! Every run ranks all blocks that any run has touched: what it has not seen itself stands where the runs before
//! saw it, behind the same neighbour, because a run is blind to some reads (a complete file has no gate any more).
//! A block's place in the plan is then the weighted median of its ranks. Recent runs weigh more, so a changed
//! habit wins after two runs, while a single odd run is outvoted by two that agree.

use std::collections::{HashMap, HashSet};

use super::Plan;
use super::recorder::Step;
use crate::base::{BlockIndex, ByteRange, FileId, Layout};

/// Weights of the runs kept, newest first: the newest beats one other, two that agree beat a newer one, and the
/// two newest beat all the rest.
const WEIGHTS: [u32; KEPT_RUNS] = [10, 7, 5, 3, 2];
/// Runs that are kept of a command.
pub(super) const KEPT_RUNS: usize = 5;

/// A block of a file.
pub(super) type Block = (FileId, u32);

/// Merges runs, newest first, of the files with these layouts. What lies outside of the files is passed over, and
/// no block is in the plan twice.
#[must_use]
pub fn merge(layouts: &[Layout], runs: &[&[Step]]) -> Plan {
    let runs: Vec<Vec<Block>> = runs.iter().take(KEPT_RUNS).map(|run| blocks(layouts, run)).collect();
    let Some(all) = runs.iter().rev().cloned().reduce(|older, newer| complete(newer, &older)) else {
        return Plan::new();
    };
    let mut ranks: HashMap<Block, Vec<(usize, u32)>> = HashMap::new();
    for (run, weight) in runs.into_iter().zip(WEIGHTS) {
        for (rank, block) in complete(run, &all).into_iter().enumerate() {
            ranks.entry(block).or_default().push((rank, weight));
        }
    }
    let mut order: Vec<(usize, Block)> =
        ranks.into_iter().map(|(block, ranks)| (median(ranks), block)).collect();
    order.sort_unstable();
    plan(layouts, order.into_iter().map(|(_, block)| block))
}

/// Adjacent blocks of an order become one range.
pub(super) fn plan(layouts: &[Layout], order: impl IntoIterator<Item = Block>) -> Plan {
    let mut plan = Plan::new();
    for (file, block) in order {
        let Some(layout) = layouts.get(file.index()) else { continue };
        let range = layout.range_of(BlockIndex(block));
        match plan.last_mut() {
            Some((last, before)) if *last == file && before.end() == range.start() => {
                *before = ByteRange::new(before.start(), range.end());
            }
            _ => plan.push((file, range)),
        }
    }
    plan
}

/// The blocks of a run in order, each once.
fn blocks(layouts: &[Layout], run: &[Step]) -> Vec<Block> {
    let mut seen = HashSet::new();
    let each = run.iter().flat_map(|step| {
        let blocks = layouts.get(step.file.index()).map_or(0..0, |layout| layout.blocks_of(step.range));
        blocks.map(|block| (step.file, block))
    });
    each.filter(|block| seen.insert(*block)).collect()
}

/// The run with the blocks it lacks, each behind the block that `other` has before it.
fn complete(run: Vec<Block>, other: &[Block]) -> Vec<Block> {
    let has: HashSet<Block> = run.iter().copied().collect();
    let mut behind: HashMap<Option<Block>, Vec<Block>> = HashMap::new();
    let mut neighbour = None;
    for &block in other {
        if has.contains(&block) {
            neighbour = Some(block);
        } else {
            behind.entry(neighbour).or_default().push(block);
        }
    }
    if behind.is_empty() {
        return run;
    }
    let mut whole = behind.remove(&None).unwrap_or_default();
    for block in run {
        whole.push(block);
        whole.extend(behind.remove(&Some(block)).unwrap_or_default());
    }
    whole
}

/// The lowest rank that at least half of the weight is at or below.
fn median(mut ranks: Vec<(usize, u32)>) -> usize {
    ranks.sort_unstable();
    let total: u32 = ranks.iter().map(|(_, weight)| weight).sum();
    let mut sum = 0;
    let half = ranks.into_iter().find(|(_, weight)| {
        sum += weight;
        2 * sum >= total
    });
    half.map_or(0, |(rank, _)| rank)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::BlockSize;

    const B: u64 = 2 << 20;

    fn layouts() -> Vec<Layout> {
        [12 * B, 0, 9 * B + 5].map(|size| Layout::new(size, BlockSize::MIN).unwrap()).to_vec()
    }

    /// Blocks of file 0, each a step.
    fn run(blocks: &[u64]) -> Vec<Step> {
        let step = |&block: &u64| Step {
            file: FileId(0),
            range: ByteRange::new(block * B, (block + 1) * B),
            at_ms: 0,
        };
        blocks.iter().map(step).collect()
    }

    fn merged(runs: &[&[u64]]) -> Vec<u64> {
        let runs: Vec<_> = runs.iter().map(|blocks| run(blocks)).collect();
        let runs: Vec<&[Step]> = runs.iter().map(Vec::as_slice).collect();
        let plan = merge(&layouts(), &runs);
        plan.iter().flat_map(|(_, range)| range.start() / B..range.end().div_ceil(B)).collect()
    }

    #[test]
    fn recent_runs_count_more_and_one_odd_run_is_outvoted() {
        let (usual, odd): (&[u64], &[u64]) = (&[5, 3, 1, 4], &[1, 4, 3, 5]);
        for (name, runs, expected) in [
            ("none", &[][..], &[][..]),
            ("one", &[usual], usual),
            ("the newer of two", &[odd, usual], odd),
            ("two that agree", &[odd, usual, usual], usual),
            ("a new habit after two runs", &[odd, odd, usual, usual, usual], odd),
            ("no more than the runs kept", &[usual, odd, usual, odd, usual, odd, odd, odd, odd], usual),
        ] {
            assert_eq!(merged(runs), expected, "{name}");
        }
    }

    #[test]
    fn what_a_run_did_not_see_keeps_its_neighbour() {
        assert_eq!(merged(&[&[0, 2, 6], &[0, 1, 2, 3, 6]]), [0, 1, 2, 3, 6]);
        assert_eq!(merged(&[&[6, 0, 2], &[9, 0, 1, 2, 3, 6]]), [9, 6, 0, 1, 2, 3]);
        assert_eq!(merged(&[&[1], &[2], &[3]]), [3, 2, 1]);
    }

    #[test]
    fn adjacent_blocks_become_one_range() {
        let range = |start, end| (FileId(0), ByteRange::new(start * B, end * B));
        assert_eq!(merge(&layouts(), &[&run(&[4, 5, 6, 2, 3, 7])]), [range(4, 7), range(2, 4), range(7, 8)]);
    }

    /// Steps as they might stand in a file somebody made.
    fn any_run() -> impl Strategy<Value = Vec<Step>> {
        let step = (0..4u32, 0..14 * B, 0..4 * B).prop_map(|(file, start, len)| Step {
            file: FileId(file),
            range: ByteRange::new(start, start + len),
            at_ms: 0,
        });
        prop::collection::vec(step, 0..30)
    }

    fn each(plan: &Plan) -> Vec<Block> {
        let layouts = layouts();
        let blocks = plan.iter().flat_map(|&(file, range)| {
            assert!(!range.is_empty() && range.end() <= layouts[file.index()].size(), "{file:?} {range}");
            layouts[file.index()].blocks_of(range).map(move |block| (file, block))
        });
        blocks.collect()
    }

    proptest! {
        #[test]
        fn a_plan_has_each_touched_block_once_and_nothing_else(
            runs in prop::collection::vec(any_run(), 0..KEPT_RUNS)
        ) {
            let runs: Vec<&[Step]> = runs.iter().map(Vec::as_slice).collect();
            let mut found = each(&merge(&layouts(), &runs));
            let mut expected: Vec<_> = runs.iter().flat_map(|run| blocks(&layouts(), run)).collect();
            expected.sort_unstable();
            expected.dedup();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn the_same_run_again_changes_nothing(run in any_run(), times in 1..=KEPT_RUNS) {
            let once = blocks(&layouts(), &run);
            prop_assert_eq!(each(&merge(&layouts(), &vec![run.as_slice(); times])), once);
        }
    }
}
