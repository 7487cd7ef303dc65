//! The lanes against tables of cases and against a naive model: order of the lanes, sizes of extents, and that
//! a block is handed out once.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::base::BlockSize;

const BLOCK: u64 = 2 << 20;
/// A reach that never limits an extent.
const FAR: u64 = u64::MAX;

fn lanes(connections: u32, files: &[u32]) -> Lanes {
    let mut lanes = Lanes::new(NonZeroU32::new(connections).unwrap());
    for blocks in files {
        let layout = Layout::new(u64::from(*blocks) * BLOCK, BlockSize::MIN).unwrap();
        lanes.add_file(layout, |_| false);
    }
    lanes
}

/// Everything the lanes hand out, as `lane file:blocks`.
fn take_all(lanes: &mut Lanes, reach: u64) -> Vec<String> {
    let now = Instant::now();
    std::iter::from_fn(|| lanes.take(reach, 0, now))
        .map(|(extent, lane)| {
            format!("{} {}:{}..{}", lane.name(), extent.file.0, extent.blocks.start, extent.blocks.end)
        })
        .collect()
}

#[test]
fn demand_beats_planned_beats_background() {
    let mut lanes = lanes(1, &[4, 4]);
    lanes.start_background();
    lanes.want(FileId(1), 0..2, Lane::Planned);
    lanes.want(FileId(1), 3..4, Lane::Demand);
    lanes.want(FileId(0), 1..2, Lane::Demand);
    assert_eq!(
        take_all(&mut lanes, FAR),
        [
            "demand 1:3..4",
            "demand 0:1..2",
            "planned 1:0..2",
            "background 0:0..1",
            "background 0:2..4",
            "background 1:2..3"
        ]
    );
}

#[test]
fn a_block_is_queued_in_the_most_urgent_lane_that_wants_it() {
    let mut lanes = lanes(1, &[4, 4]);
    assert_eq!(lanes.queued(), [0, 0, 0]);
    lanes.start_background();
    lanes.want(FileId(1), 0..3, Lane::Planned);
    lanes.want(FileId(1), 2..4, Lane::Demand);
    lanes.want(FileId(1), 3..4, Lane::Demand);
    assert_eq!(lanes.queued(), [2, 2, 4]);
    lanes.take(FAR, 0, Instant::now()).unwrap();
    assert_eq!(lanes.queued(), [0, 2, 4]);
}

#[test]
fn what_is_ahead_of_readers_comes_before_the_plan_and_is_replaced() {
    let mut lanes = lanes(1, &[9, 4]);
    lanes.want(FileId(0), 0..9, Lane::Planned);
    lanes.plan_ahead([(FileId(1), 0..2), (FileId(0), 7..8)]);
    let now = Instant::now();
    assert_eq!(lanes.take(BLOCK, 0, now).unwrap(), (Extent { file: FileId(1), blocks: 0..1 }, Lane::Planned));
    lanes.plan_ahead([(FileId(9), 0..1), (FileId(1), 3..77), (FileId(0), 5..6)]);
    lanes.want(FileId(0), 8..9, Lane::Demand);
    assert_eq!(
        take_all(&mut lanes, FAR),
        ["demand 0:8..9", "planned 1:3..4", "planned 0:5..6", "planned 0:0..5", "planned 0:6..8"]
    );
}

#[test]
fn a_mapping_is_served_from_its_start_and_small_reads_overtake_it() {
    let mut lanes = lanes(4, &[40, 40, 4]);
    lanes.want(FileId(0), 0..40, Lane::Demand);
    lanes.want(FileId(1), 0..40, Lane::Demand);
    let now = Instant::now();
    let mut next = || lanes.take(8 * BLOCK, 0, now).map(|(extent, _)| (extent.file.0, extent.blocks));
    assert_eq!(next(), Some((0, 0..8)));
    assert_eq!(next(), Some((0, 8..16)));
    lanes.want(FileId(2), 2..3, Lane::Demand);
    lanes.want(FileId(1), 39..40, Lane::Demand);
    let mut next = || lanes.take(8 * BLOCK, 0, now).map(|(extent, _)| (extent.file.0, extent.blocks));
    assert_eq!(next(), Some((2, 2..3)));
    assert_eq!(next(), Some((1, 39..40)));
    // The mapping that came first goes on; its rest is shared by the connections.
    assert_eq!(next(), Some((0, 16..22)));
}

#[test]
fn extents_follow_the_reach_and_shrink_towards_the_end() {
    for (connections, blocks, reach, sizes) in [
        (1, 8, 3 * BLOCK, vec![3, 3, 2]),
        (1, 3, 0, vec![1, 1, 1]),
        (2, 8, FAR, vec![4, 2, 1, 1]),
        (16, 4, FAR, vec![1, 1, 1, 1]),
    ] {
        let mut lanes = lanes(connections, &[blocks]);
        lanes.start_background();
        let now = Instant::now();
        let taken: Vec<usize> =
            std::iter::from_fn(|| lanes.take(reach, 0, now)).map(|(extent, _)| extent.blocks.len()).collect();
        assert_eq!(taken, sizes, "{connections} connections, {blocks} blocks, reach {reach}");
    }
}

#[test]
fn background_waits_to_be_started_and_fills_one_file_after_the_other() {
    let mut lanes = lanes(1, &[0, 3, 0, 2]);
    assert_eq!(take_all(&mut lanes, FAR), [""; 0]);
    lanes.start_background();
    assert_eq!(
        take_all(&mut lanes, BLOCK * 2),
        ["background 1:0..2", "background 1:2..3", "background 3:0..2"]
    );
}

#[test]
fn what_an_operator_asks_for_comes_before_the_plan_and_behind_the_readers() {
    let mut lanes = lanes(1, &[2, 2, 2]);
    lanes.want(FileId(0), 0..1, Lane::Planned);
    lanes.plan_first(FileId(2), 0..2);
    lanes.plan_ahead([(FileId(1), 0..1)]);
    lanes.want(FileId(1), 1..2, Lane::Demand);
    assert_eq!((lanes.unready_bytes(FileId(2)), lanes.unready_bytes(FileId(9))), (2 * BLOCK, 0));
    assert_eq!(
        take_all(&mut lanes, BLOCK * 2),
        ["demand 1:1..2", "planned 1:0..1", "planned 2:0..2", "planned 0:0..1"]
    );
    let states = lanes.blocks(FileId(2), |_| BlockState::Origin);
    assert_eq!(states, [BlockState::Fetching; 2]);
    lanes.block_ready(FileId(2), BlockIndex(0));
    let states =
        [lanes.blocks(FileId(2), |_| BlockState::Peer), lanes.blocks(FileId(0), |_| BlockState::Peer)];
    use BlockState::{Fetching, Missing, Peer};
    assert_eq!(states, [[Peer, Fetching], [Fetching, Missing]]);
}

#[test]
fn each_slot_fills_a_file_of_its_own_while_there_are_enough() {
    let mut lanes = lanes(1, &[2, 4, 2]);
    lanes.start_background();
    let now = Instant::now();
    let mut next =
        |slot| lanes.take(BLOCK, slot, now).map(|(extent, _)| (extent.file.0, extent.blocks.start));
    assert_eq!(
        [next(0), next(1), next(1), next(0)],
        [Some((0, 0)), Some((1, 0)), Some((1, 1)), Some((0, 1))]
    );
    // The first one is handed out: the slot goes on with the next that nobody fills, and then helps.
    assert_eq!([next(0), next(0)], [Some((2, 0)), Some((2, 1))]);
    assert_eq!([next(0), next(1), next(0)], [Some((1, 2)), Some((1, 3)), None]);
}

#[test]
fn blocks_from_an_earlier_run_are_not_fetched() {
    let mut lanes = lanes(1, &[]);
    lanes.add_file(Layout::new(3 * BLOCK + 1, BlockSize::MIN).unwrap(), |block| block.0 % 2 == 1);
    lanes.start_background();
    assert_eq!((lanes.ready_bytes(), lanes.total_bytes()), (BLOCK + 1, 3 * BLOCK + 1));
    assert_eq!(lanes.unready(FileId(0), 0..4), 2);
    assert_eq!(take_all(&mut lanes, FAR), ["background 0:0..1", "background 0:2..3"]);
}

#[test]
fn a_file_rests_after_a_failure_except_for_demand() {
    let mut lanes = lanes(1, &[2, 1]);
    lanes.start_background();
    lanes.want(FileId(0), 0..1, Lane::Planned);
    let now = Instant::now();
    let (lost, lane) = lanes.take(FAR, 0, now).unwrap();
    assert_eq!(lane, Lane::Planned);
    let until = now + Duration::from_secs(30);
    lanes.put_back(&lost, until);
    lanes.want(FileId(0), 1..2, Lane::Planned);
    assert_eq!(lanes.next_due(), Some(until));
    assert_eq!(lanes.take(FAR, 0, now).unwrap().0, Extent { file: FileId(1), blocks: 0..1 });
    assert_eq!(lanes.take(FAR, 0, now), None);
    lanes.want(FileId(0), 0..1, Lane::Demand);
    assert_eq!(lanes.take(FAR, 0, now).unwrap().1, Lane::Demand);
    assert_eq!(lanes.take(FAR, 0, now), None);
    assert_eq!(lanes.take(FAR, 0, until).unwrap(), (Extent { file: FileId(0), blocks: 1..2 }, Lane::Planned));
    assert_eq!(lanes.next_due(), None);
}

#[test]
fn a_block_that_arrives_ends_the_rest() {
    let mut lanes = lanes(1, &[2]);
    lanes.start_background();
    let now = Instant::now();
    let (lost, _) = lanes.take(BLOCK, 0, now).unwrap();
    lanes.put_back(&lost, now + Duration::from_secs(30));
    lanes.want(FileId(0), 1..2, Lane::Demand);
    assert!(lanes.take(BLOCK, 0, now).is_some());
    lanes.block_ready(FileId(0), BlockIndex(1));
    assert_eq!(take_all(&mut lanes, FAR), ["background 0:0..1"]);
}

#[test]
fn a_closed_file_gives_nothing_and_leaves_the_others_alone() {
    let mut lanes = lanes(1, &[4, 2]);
    lanes.start_background();
    lanes.want(FileId(0), 3..4, Lane::Demand);
    lanes.want(FileId(0), 2..3, Lane::Planned);
    let now = Instant::now();
    let (flying, _) = lanes.take(FAR, 0, now).unwrap();
    lanes.close(FileId(0));
    lanes.close(FileId(0));
    lanes.put_back(&flying, now);
    lanes.want(FileId(0), 0..1, Lane::Demand);
    assert_eq!(take_all(&mut lanes, FAR), ["background 1:0..2"]);
    assert_eq!(lanes.next_due(), None);
}

#[test]
fn forgotten_files_are_fetched_again() {
    let mut lanes = lanes(1, &[2, 1]);
    lanes.start_background();
    assert_eq!(take_all(&mut lanes, FAR).len(), 2);
    assert!(!lanes.block_ready(FileId(0), BlockIndex(0)));
    assert!(lanes.block_ready(FileId(0), BlockIndex(1)));
    lanes.forget(FileId(0));
    assert_eq!(lanes.ready_bytes(), 0);
    assert_eq!(take_all(&mut lanes, FAR), ["background 0:0..2"]);
}

#[test]
fn demands_are_dropped_by_file() {
    let mut lanes = lanes(1, &[40, 2]);
    lanes.want(FileId(0), 0..40, Lane::Demand);
    lanes.want(FileId(0), 1..2, Lane::Demand);
    lanes.want(FileId(1), 0..1, Lane::Demand);
    lanes.drop_demands(FileId(0));
    assert_eq!(take_all(&mut lanes, FAR), ["demand 1:0..1"]);
}

/// What can happen to the lanes from outside.
#[derive(Debug, Clone)]
enum Step {
    Demand(u32, u32, u32),
    Plan(u32, u32, u32),
    Ahead(Vec<(u32, u32, u32)>),
    Background,
    Take(u64),
    /// The n-th extent in flight arrives, or is lost.
    Arrive(usize),
    Lose(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = || (0..4u32, 0..30u32, 1..30u32);
    let step = prop_oneof![
        2 => range().prop_map(|(file, start, len)| Step::Demand(file, start, len)),
        1 => range().prop_map(|(file, start, len)| Step::Plan(file, start, len)),
        1 => prop::collection::vec(range(), 0..4).prop_map(Step::Ahead),
        1 => Just(Step::Background),
        6 => (0..12u64).prop_map(|blocks| Step::Take(blocks * BLOCK)),
        5 => (0..8usize).prop_map(Step::Arrive),
        1 => (0..8usize).prop_map(Step::Lose),
    ];
    prop::collection::vec(step, 0..120)
}

/// The obvious model: sets of (file, block), and the demands not answered yet.
#[derive(Default)]
struct Naive {
    demands: Vec<(u32, Range<u32>)>,
    taken: BTreeSet<(u32, u32)>,
    ready: BTreeSet<(u32, u32)>,
}

impl Naive {
    fn waits(&self) -> bool {
        let mut blocks =
            self.demands.iter().flat_map(|(file, blocks)| blocks.clone().map(|block| (*file, block)));
        blocks.any(|block| !self.taken.contains(&block) && !self.ready.contains(&block))
    }
}

fn blocks(extent: &Extent) -> impl Iterator<Item = (u32, u32)> + use<> {
    let file = extent.file.0;
    extent.blocks.clone().map(move |block| (file, block))
}

const SIZES: [u32; 4] = [1, 0, 30, 17];

proptest! {
    #[test]
    fn each_block_is_handed_out_once_demand_first_and_all_in_the_end(
        steps in steps(), connections in 1..20u32
    ) {
        let now = Instant::now();
        let mut lanes = lanes(connections, &SIZES);
        let mut naive = Naive::default();
        let mut flying: Vec<Extent> = Vec::new();
        let take = |lanes: &mut Lanes, naive: &mut Naive, reach| {
            let waits = naive.waits();
            let Some((extent, lane)) = lanes.take(reach, 0, now) else {
                assert!(!waits, "a demanded block was not handed out");
                return None;
            };
            assert_eq!(lane == Lane::Demand, waits);
            assert!(extent.blocks.len() as u64 <= (reach / BLOCK).max(1));
            for block in blocks(&extent) {
                assert!(!naive.ready.contains(&block) && naive.taken.insert(block), "{block:?} twice");
            }
            Some(extent)
        };
        for step in steps {
            match step {
                Step::Demand(file, start, len) | Step::Plan(file, start, len) => {
                    let end = (start + len).min(SIZES[file as usize]);
                    let range = start.min(end)..end;
                    let demand = matches!(step, Step::Demand(..));
                    if demand {
                        naive.demands.push((file, range.clone()));
                    }
                    lanes.want(FileId(file), range, if demand { Lane::Demand } else { Lane::Planned });
                }
                Step::Ahead(ranges) => lanes.plan_ahead(
                    ranges.into_iter().map(|(file, start, len)| (FileId(file), start..start + len)),
                ),
                Step::Background => lanes.start_background(),
                Step::Take(reach) => flying.extend(take(&mut lanes, &mut naive, reach)),
                Step::Arrive(at) if at < flying.len() => {
                    let extent = flying.swap_remove(at);
                    for (file, block) in blocks(&extent) {
                        naive.taken.remove(&(file, block));
                        naive.ready.insert((file, block));
                        let full = lanes.block_ready(FileId(file), BlockIndex(block));
                        let count = naive.ready.iter().filter(|ready| ready.0 == file).count();
                        prop_assert_eq!(full, count == SIZES[file as usize] as usize);
                    }
                }
                Step::Lose(at) if at < flying.len() => {
                    let extent = flying.swap_remove(at);
                    let (file, lost) = (extent.file.0, extent.blocks.start);
                    for block in blocks(&extent) {
                        naive.taken.remove(&block);
                    }
                    // Who waited for the first block has been told; the other demands stand.
                    naive.demands.retain(|demand| demand.0 != file || !demand.1.contains(&lost));
                    lanes.put_back(&extent, now);
                    lanes.drop_demands(extent.file);
                    for (_, range) in naive.demands.iter().filter(|demand| demand.0 == file) {
                        lanes.want(extent.file, range.clone(), Lane::Demand);
                    }
                }
                Step::Arrive(_) | Step::Lose(_) => {}
            }
        }
        lanes.start_background();
        while take(&mut lanes, &mut naive, 4 * BLOCK).is_some() {}
        prop_assert_eq!(naive.taken.len() + naive.ready.len(), SIZES.iter().sum::<u32>() as usize);
    }
}
