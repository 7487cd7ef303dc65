//! Which block a node takes next: its own share, the window, the order within a group, guesses, and how many nodes it
//! keeps count of.

use std::time::{Duration, Instant};

use crate::base::{BlockIndex, BlockSize, FileId, Layout};
use crate::peer::id::ObjectId;
use crate::peer::swarm::{Flight, News, Settings, Swarm};

const BLOCKS: u32 = 4000;
/// The part of the load that look-ahead and window are at most: `swarm::settings`.
const WINDOW: u32 = BLOCKS / 32;

fn object() -> ObjectId {
    ObjectId::from_bytes([9; 16])
}

/// A node that has places for everything.
fn node(name: &str, weight: f64, settings: Settings, now: Instant) -> Swarm {
    let layout = Layout::new(u64::from(BLOCKS) * BlockSize::MIN.bytes(), BlockSize::MIN).unwrap();
    Swarm::new(settings, (name.parse().unwrap(), weight), vec![(object(), layout)], 1, now)
}

fn roomy() -> Settings {
    Settings { peer_slots: 10_000, per_peer: 10_000, ..Settings::default() }
}

/// A peer that has every block, or none.
fn news(name: &str, has_all: bool) -> News {
    let words = vec![if has_all { u64::MAX } else { 0 }; BLOCKS.div_ceil(64) as usize];
    News {
        name: name.parse().unwrap(),
        weight: 1.0,
        age: Duration::ZERO,
        draining: false,
        queue: 0,
        haves: vec![(object(), words)],
        reading: Vec::new(),
        zone: None,
    }
}

/// All that it takes of what is not under way, until it takes nothing more.
fn chosen(swarm: &mut Swarm, now: Instant) -> Vec<u32> {
    let mut taken = Vec::new();
    loop {
        let free: Vec<_> = (0..BLOCKS).filter(|block| !taken.contains(block)).collect();
        let mut wanted = free.into_iter().map(|block| (FileId(0), BlockIndex(block)));
        match swarm.choose(&mut wanted, now) {
            Some((_, block)) => taken.push(block.0),
            None => return taken,
        }
    }
}

#[test]
fn what_peers_have_is_taken_within_the_window_and_no_further() {
    let now = Instant::now();
    let mut swarm = node("me", 0.0, roomy(), now);
    swarm.heard(news("all", true), now);
    let mut taken = chosen(&mut swarm, now);
    taken.sort_unstable();
    assert_eq!(taken, (0..=WINDOW).collect::<Vec<_>>());
    // And from where the reader's load has come to.
    let mut wanted = (1000..BLOCKS).map(|block| (FileId(0), BlockIndex(block)));
    let next = swarm.choose(&mut wanted, now).unwrap().1.0;
    assert!((1000..=1000 + WINDOW).contains(&next), "{next}");
}

#[test]
fn places_for_peers_are_not_exceeded() {
    let now = Instant::now();
    let mut swarm = node("me", 0.0, Settings { peer_slots: 3, ..roomy() }, now);
    swarm.heard(news("all", true), now);
    let taken = chosen(&mut swarm, now);
    assert_eq!(taken.len(), 3);
    swarm.land((FileId(0), BlockIndex(taken[0])), now);
    assert_eq!(chosen(&mut swarm, now).len(), 1);
}

#[test]
fn each_node_begins_a_group_at_its_own_place() {
    let now = Instant::now();
    let names = ["a", "b", "c", "d", "e"];
    let orders = names.map(|me| {
        let mut swarm = node(me, 1.0, Settings { origin_slots: 0, ..roomy() }, now);
        for other in names.iter().filter(|other| **other != me) {
            swarm.heard(news(other, true), now);
        }
        chosen(&mut swarm, now)
    });
    let count = u32::try_from(names.len()).unwrap();
    let mut places = orders.each_ref().map(|order| order[0]);
    for (order, place) in orders.iter().zip(places) {
        // Every block of a group from there on, before any of the next group.
        let expected = (0..WINDOW / count).flat_map(|group| (0..count).map(move |turn| (group, turn)));
        let expected = expected.map(|(group, turn)| group * count + (place + turn) % count);
        assert!(order.iter().copied().zip(expected).all(|(taken, expected)| taken == expected), "{order:?}");
    }
    places.sort_unstable();
    assert_eq!(places.as_slice(), (0..count).collect::<Vec<_>>(), "all at different places");
}

#[test]
fn the_own_share_comes_first_and_stays_near_the_foremost_peer() {
    let now = Instant::now();
    let mut swarm = node("me", 1.0, roomy(), now);
    swarm.heard(news("other", false), now);
    swarm.refresh(now);
    let own: Vec<_> =
        (0..=WINDOW).filter(|block| swarm.is_mine((FileId(0), BlockIndex(*block)), now)).collect();
    assert!(own.len() > 20, "{own:?}");
    let mut read = Vec::new();
    loop {
        let free: Vec<_> = (0..BLOCKS).filter(|block| !read.contains(block)).collect();
        let mut wanted = free.into_iter().map(|block| (FileId(0), BlockIndex(block)));
        let Some(at) = swarm.choose(&mut wanted, now) else { break };
        if swarm.flight(at) == Some(Flight::Peer) {
            // The own share within its bound is under way or there.
            break;
        }
        read.push(at.1.0);
        swarm.land(at, now);
    }
    // Block 0 or the first one of the other's is what is missing first, and nobody has more: so far it may look ahead.
    assert!(read.starts_with(&own), "{read:?} {own:?}");
    assert!(read.iter().all(|block| *block <= WINDOW + own[0] + 8), "{read:?}");
}

#[test]
fn few_blocks_are_asked_for_that_nobody_is_known_to_have() {
    let now = Instant::now();
    let mut swarm = node("me", 0.0, roomy(), now);
    swarm.heard(news("other", false), now);
    assert_eq!(chosen(&mut swarm, now).len(), Settings::default().guesses as usize);
}

#[test]
fn absurdly_many_nodes_are_not_kept_count_of() {
    let now = Instant::now();
    let mut swarm = node("me", 1.0, roomy(), now);
    let hear = |swarm: &mut Swarm, number: u32| {
        let name = format!("node-{number}");
        swarm.heard(News { haves: Vec::new(), ..news(&name, false) }, now)
    };
    // This one is counted, too.
    let most = 1 << 15;
    assert!((1..most).all(|number| hear(&mut swarm, number).is_some()));
    assert_eq!(hear(&mut swarm, most), None);
    assert!(swarm.find(&"node-32768".parse().unwrap()).is_none());
    assert!(hear(&mut swarm, 7).is_some(), "those that are known are still heard");
}
