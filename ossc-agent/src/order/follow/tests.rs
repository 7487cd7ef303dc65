//! Readers of known patterns, and what the follower makes of them.

use proptest::prelude::*;

use super::*;
use crate::base::BlockSize;

const B: u64 = 2 << 20;
/// As many blocks as the first distance, and as the farthest.
const NEAR: u64 = 16;
const FAR: u64 = 256;

fn layouts() -> Vec<Layout> {
    [1000 * B, 1000 * B + 1].map(|size| Layout::new(size, BlockSize::MIN).unwrap()).to_vec()
}

fn block(file: u32, block: u64) -> (FileId, ByteRange) {
    (FileId(file), ByteRange::new(block * B, (block + 1) * B))
}

fn follower(plan: impl IntoIterator<Item = (u32, u64)>) -> Follower {
    Follower::new(layouts(), &plan.into_iter().map(|(file, at)| block(file, at)).collect())
}

/// Reads blocks one after the other, of a file whose blocks are all ready or all missing; what is fetched ahead
/// after each.
fn read(follower: &mut Follower, ready: bool, blocks: &[(u32, u64)]) -> Vec<Option<Vec<(u32, u64)>>> {
    let one = |&(file, at): &(u32, u64)| {
        let (file, range) = block(file, at);
        // What is asked for now is there or not; what lies ahead never is, or nothing would be worth giving out.
        let ahead = follower.access(file, range, |asked, piece| ready && (asked, piece) == (file, range));
        ahead.map(blocks_of)
    };
    blocks.iter().map(one).collect()
}

fn blocks_of(plan: Plan) -> Vec<(u32, u64)> {
    let each = |(file, range): (FileId, ByteRange)| {
        (range.start() / B..range.end().div_ceil(B)).map(move |block| (file.0, block))
    };
    plan.into_iter().flat_map(each).collect()
}

/// A fixed permutation of the blocks of file 0 in which no two neighbours are near.
fn shuffled() -> impl Iterator<Item = (u32, u64)> {
    (0..1000).map(|at| (0, at * 387 % 1000))
}

#[test]
fn the_third_read_in_a_row_tells_the_way() {
    let to = |from: u64, count| Some((from..from + count).map(|at| (0, at)).collect::<Vec<_>>());
    let strided =
        |from: u64, stride: u64| Some((0..NEAR).map(|at| (0, from + at * stride)).collect::<Vec<_>>());
    let backwards = Some((0..NEAR).map(|at| (0, 891 - 3 * at)).collect::<Vec<_>>());
    for (name, reads, expected) in [
        ("sequential", [10, 11, 12], to(13, NEAR)),
        ("sequential to the end", [996, 997, 998], to(999, 1)),
        ("to the end", [997, 998, 999], Some(vec![])),
        ("strided", [0, 8, 16], None),
        ("random", [5, 900, 77], None),
        ("again and again", [5, 5, 5], None),
    ] {
        let found = read(&mut follower([]), true, &reads.map(|at| (0, at)));
        assert_eq!(found, [None, None, expected], "{name}");
    }
    // The first two touches only tell the stride.
    for (name, reads, expected) in
        [("strided", [0, 8, 16, 24], strided(32, 8)), ("backwards", [903, 900, 897, 894], backwards)]
    {
        let found = read(&mut follower([]), true, &reads.map(|at| (0, at)));
        assert_eq!(found, [None, None, None, expected], "{name}");
    }
}

#[test]
fn a_reader_is_followed_along_the_plan_from_where_it_is() {
    let plan: Vec<_> = shuffled().collect();
    let found = read(&mut follower(shuffled()), true, &plan[500..503]);
    assert_eq!(found[..2], [None, None]);
    assert_eq!(found[2].as_deref(), Some(&plan[503..519]));
}

#[test]
fn threads_may_overtake_each_other_along_the_plan() {
    let plan: Vec<_> = shuffled().collect();
    let found = read(&mut follower(shuffled()), true, &[plan[102], plan[100], plan[103]]);
    assert_eq!(found[2].as_deref(), Some(&plan[104..120]));
}

#[test]
fn several_readers_take_turns() {
    let plan: Vec<_> = shuffled().collect();
    let mut follower = follower(shuffled());
    read(&mut follower, true, &[plan[200], plan[700], plan[201], plan[701], plan[202]]);
    let found = read(&mut follower, true, &[plan[702]]).pop().flatten().unwrap();
    assert_eq!(found[..4], [plan[703], plan[203], plan[704], plan[204]]);
    assert_eq!(found.len() as u64, 2 * NEAR);
}

#[test]
fn one_that_leaves_the_plan_is_followed_by_what_it_does() {
    let plan: Vec<_> = shuffled().collect();
    let mut follower = follower(shuffled());
    read(&mut follower, true, &plan[..3]);
    let found = read(&mut follower, true, &[(0, 500), (0, 501), (0, 502)]).pop().flatten().unwrap();
    assert_eq!(found[..2], [(0, 503), (0, 504)]);
    let found = read(&mut follower, true, &[(1, 0), (1, 1), (1, 2)]).pop().flatten().unwrap();
    assert!(found.starts_with(&[(1, 3)]), "a file the plan does not have: {found:?}");
}

#[test]
fn the_distance_grows_while_the_reader_is_held() {
    let reads: Vec<_> = (0..100).map(|at| (0, at)).collect();
    let lengths = |ready| {
        let found = read(&mut follower([]), ready, &reads).into_iter().flatten();
        found.map(|ahead| ahead.len() as u64).collect::<Vec<_>>()
    };
    let calm = lengths(true);
    assert!(calm.len() > 20 && calm.iter().all(|length| *length == NEAR), "{calm:?}");
    let held = lengths(false);
    assert_eq!(held[..5], [NEAR, 2 * NEAR, 4 * NEAR, 8 * NEAR, FAR]);
    assert!(held[5..].iter().all(|length| *length == FAR), "{held:?}");
}

#[test]
fn what_is_ready_is_not_given_out() {
    let mut follower = follower([]);
    let ready = |_, range: ByteRange| range.end() <= 12 * B;
    let found = (0..3).map(|at| follower.access(FileId(0), block(0, at).1, ready)).last().flatten();
    assert_eq!(found, Some(vec![(FileId(0), ByteRange::new(11 * B, 19 * B))]));
}

proptest! {
    #[test]
    fn whatever_is_read_what_is_fetched_ahead_is_bounded_and_there(
        reads in prop::collection::vec((0..3u32, 0..1100 * B, 0..40 * B, any::<bool>()), 0..300),
        planned: bool
    ) {
        let plan: Vec<_> = if planned { shuffled().collect() } else { vec![] };
        let mut follower = follower(plan);
        for (file, start, len, ready) in reads {
            let range = ByteRange::new(start, start + len);
            let Some(ahead) = follower.access(FileId(file), range, |_, _| ready) else { continue };
            let bytes: u64 = ahead.iter().map(|(_, range)| range.len()).sum();
            prop_assert!(bytes <= MAX_TRAILS as u64 * FAR * B);
            for (file, range) in ahead {
                prop_assert!(!range.is_empty() && range.end() <= layouts()[file.index()].size());
            }
            prop_assert!(follower.trails.len() <= MAX_TRAILS);
        }
    }
}
