//! What one node does to get a block, and what it answers others, question by question.

use std::time::{Duration, Instant};

use crate::base::{BlockIndex, BlockSize, FileId, Layout};
use crate::peer::answer::{Answer, Question};
use crate::peer::id::ObjectId;
use crate::peer::pursuit::{Outcome, Role, Step};
use crate::peer::swarm::{News, Settings, Swarm};

const AT: (FileId, BlockIndex) = (FileId(0), BlockIndex(0));

/// How long a node that does not own a block tries to have it from an owner that is never ready.
fn patience(is_reading: bool) -> Duration {
    let begin = Instant::now();
    let object = ObjectId::from_bytes([9; 16]);
    let layout = Layout::new(100 * BlockSize::MIN.bytes(), BlockSize::MIN).unwrap();
    let mut swarm =
        Swarm::new(Settings::default(), ("me".parse().unwrap(), 0.0), vec![(object, layout)], 1, begin);
    let mut now = begin;
    let tell = |swarm: &mut Swarm, now| {
        let reading = if is_reading { vec![(object, AT.1)] } else { Vec::new() };
        let news = News {
            name: "owner".parse().unwrap(),
            weight: 1.0,
            age: Duration::from_secs(9),
            draining: false,
            queue: 0,
            haves: vec![(object, vec![0; 2])],
            reading,
            zone: None,
        };
        swarm.heard(news, now);
    };
    tell(&mut swarm, now);
    let mut pursuit = swarm.pursue(AT, false, now);
    loop {
        match swarm.next_step(&mut pursuit, now) {
            Step::Origin => return now - begin,
            Step::Wait(pause) => now += pause,
            Step::Ask { node, wait, .. } => {
                now += wait;
                swarm.outcome(&mut pursuit, node, &Outcome::NotYet, now);
            }
        }
        tell(&mut swarm, now);
        assert!(now < begin + Duration::from_secs(60));
    }
}

#[test]
fn who_is_known_to_read_a_block_gets_more_time() {
    let settings = Settings::default();
    let (short, long) = (patience(false), patience(true));
    assert!((settings.patience..settings.patience * 2).contains(&short), "{short:?}");
    assert!((settings.patience * 4..settings.patience * 5).contains(&long), "{long:?}");
}

#[test]
fn an_owner_does_not_wait_for_who_may_wait_for_it() {
    let begin = Instant::now();
    let object = ObjectId::from_bytes([9; 16]);
    let layout = Layout::new(100 * BlockSize::MIN.bytes(), BlockSize::MIN).unwrap();
    let mut swarm =
        Swarm::new(Settings::default(), ("me".parse().unwrap(), 1.0), vec![(object, layout)], 1, begin);
    for name in ["one", "two"] {
        let name = name.parse().unwrap();
        let age = Duration::ZERO;
        let (haves, reading) = (vec![(object, vec![0; 2])], Vec::new());
        let news = News { name, weight: 1.0, age, draining: false, queue: 0, haves, reading, zone: None };
        swarm.heard(news, begin);
    }
    // What the others have was heard long ago, so they are asked first.
    let mut now = begin + Duration::from_secs(20);
    assert!(swarm.is_sharing(now));
    let block = (0..100).map(BlockIndex).find(|block| swarm.is_mine((FileId(0), *block), now)).unwrap();
    let mut pursuit = swarm.pursue((FileId(0), block), false, now);
    let (began, mut asked) = (now, 0);
    loop {
        match swarm.next_step(&mut pursuit, now) {
            Step::Origin => break,
            Step::Wait(pause) => now += pause,
            Step::Ask { node, .. } => {
                asked += 1;
                swarm.outcome(&mut pursuit, node, &Outcome::NotYet, now);
            }
        }
    }
    assert!(asked > 0, "nobody was asked");
    assert!(now - began < Duration::from_secs(1), "{:?}", now - began);
}

#[test]
fn who_needs_the_origin_no_more_leaves_its_part_to_the_others() {
    let now = Instant::now();
    let object = ObjectId::from_bytes([9; 16]);
    let layout = Layout::new(100 * BlockSize::MIN.bytes(), BlockSize::MIN).unwrap();
    let files = vec![(object, layout)];
    let mut swarm = Swarm::new(Settings::default(), ("me".parse().unwrap(), 2.0), files, 1, now);
    let mut part = |name: &str, weight, draining, haves| {
        let (name, age) = (name.parse().unwrap(), Duration::ZERO);
        swarm.heard(
            News { name, weight, age, draining, queue: 0, haves, reading: Vec::new(), zone: None },
            now,
        );
        swarm.origin_part()
    };
    let (all, none) = (vec![u64::MAX; 2], vec![0; 2]);
    let other = ObjectId::from_bytes([8; 16]);
    assert!((part("me", 9.0, false, vec![]) - 1.0).abs() < 1e-9, "nobody else is there");
    assert!((part("a", 1.0, false, vec![(object, none.clone())]) - 2.0 / 3.0).abs() < 1e-9);
    assert!((part("b", 5.0, true, vec![(object, none)]) - 2.0 / 8.0).abs() < 1e-9, "it may still read");
    assert!((part("b", 5.0, false, vec![(object, all.clone())]) - 2.0 / 3.0).abs() < 1e-9, "complete");
    assert!((part("c", 1.0, false, vec![(object, all), (other, vec![0])]) - 0.5).abs() < 1e-9, "not so");
    assert!((part("d", 4.0, false, vec![(other, vec![0])]) - 0.25).abs() < 1e-9, "another model");
    swarm.lost(&"d".parse().unwrap());
    assert!((swarm.origin_part() - 0.5).abs() < 1e-9);
}

#[test]
fn nothing_is_placed_on_or_taken_from_nodes_of_other_zones() {
    let now = Instant::now();
    let object = ObjectId::from_bytes([9; 16]);
    let layout = Layout::new(100 * BlockSize::MIN.bytes(), BlockSize::MIN).unwrap();
    let zone = |name: &str| Some(name.parse().unwrap());
    let settings = Settings { zone: zone("z1"), ..Settings::default() };
    let mut swarm = Swarm::new(settings, ("me".parse().unwrap(), 1.0), vec![(object, layout)], 1, now);
    let mut hear = |name: &str, zone| {
        let (haves, reading) = (vec![(object, vec![1; 2])], vec![(object, BlockIndex(5))]);
        let (name, age) = (name.parse().unwrap(), Duration::ZERO);
        swarm
            .heard(News { name, weight: 1.0, age, draining: false, queue: 0, haves, reading, zone }, now);
        swarm.refresh(now);
        let mine = (0..100).filter(|block| swarm.is_mine((FileId(0), BlockIndex(*block)), now)).count();
        (
            swarm.is_sharing(now),
            swarm.readers((FileId(0), BlockIndex(5)), now).count(),
            mine,
            swarm.origin_part(),
        )
    };
    assert_eq!(hear("far", zone("z2")), (false, 0, 100, 0.5));
    assert_eq!(hear("none", None), (false, 0, 100, 1.0 / 3.0));
    let (is_sharing, readers, mine, _) = hear("near", zone("z1"));
    assert!(is_sharing && readers == 1 && (30..70).contains(&mine), "{readers} {mine}");
}

#[test]
fn who_waits_for_a_node_has_nothing_for_it() {
    let now = Instant::now();
    let object = ObjectId::from_bytes([9; 16]);
    let layout = Layout::new(100 * BlockSize::MIN.bytes(), BlockSize::MIN).unwrap();
    let mut swarm =
        Swarm::new(Settings::default(), ("me".parse().unwrap(), 0.0), vec![(object, layout)], 1, now);
    let (haves, reading) = (vec![(object, vec![0; 2])], Vec::new());
    let name = "owner".parse().unwrap();
    swarm.heard(
        News {
            name,
            weight: 1.0,
            age: Duration::ZERO,
            draining: false,
            queue: 0,
            haves,
            reading,
            zone: None,
        },
        now,
    );
    assert!(swarm.claim(AT, now));
    let mut pursuit = swarm.pursue(AT, false, now);
    assert!(matches!(swarm.next_step(&mut pursuit, now), Step::Ask { .. }));
    let mut answer = |from: &str| {
        let from = from.parse().unwrap();
        let question = Question { from, object, block: AT.1, role: Role::Holder, hop: 0, urgent: false };
        swarm.answer(&question, |_| false, 0, now)
    };
    assert_eq!(answer("owner"), Answer::NotHere);
    assert_eq!(answer("somebody"), Answer::Later);
}

#[test]
fn what_all_ask_one_node_for_is_given_on_by_those_who_have_it() {
    let now = Instant::now();
    let object = ObjectId::from_bytes([9; 16]);
    let layout = Layout::new(100 * BlockSize::MIN.bytes(), BlockSize::MIN).unwrap();
    let mut swarm =
        Swarm::new(Settings::default(), ("me".parse().unwrap(), 0.0), vec![(object, layout)], 1, now);
    for name in ["first", "second"] {
        let (haves, reading) = (vec![(object, vec![0; 2])], Vec::new());
        let (name, age) = (name.parse().unwrap(), Duration::ZERO);
        swarm.heard(
            News { name, weight: 1.0, age, draining: false, queue: 0, haves, reading, zone: None },
            now,
        );
    }
    let answer = |swarm: &mut Swarm, urgent, queue| {
        let from = "second".parse().unwrap();
        let question = Question { from, object, block: AT.1, role: Role::Owner, hop: 0, urgent };
        swarm.answer(&question, |_| true, queue, now)
    };
    let many = Settings::default().deep_queue;
    assert_eq!(answer(&mut swarm, false, many - 1), Answer::Send(AT.0));
    assert_eq!(answer(&mut swarm, false, many), Answer::Busy);
    assert_eq!(answer(&mut swarm, true, many), Answer::Send(AT.0));
    let first = "first".parse().unwrap();
    swarm.served(&first, AT);
    assert_eq!(answer(&mut swarm, false, many), Answer::Redirect(first));
}

#[test]
fn where_two_are_busy_nobody_else_is_asked_for_a_while() {
    let now = Instant::now();
    let object = ObjectId::from_bytes([9; 16]);
    let layout = Layout::new(100 * BlockSize::MIN.bytes(), BlockSize::MIN).unwrap();
    let mut swarm =
        Swarm::new(Settings::default(), ("me".parse().unwrap(), 0.0), vec![(object, layout)], 1, now);
    for name in ["a", "b", "c", "d"] {
        let (haves, reading) = (vec![(object, vec![1; 2])], Vec::new());
        let (name, age) = (name.parse().unwrap(), Duration::ZERO);
        swarm.heard(
            News { name, weight: 1.0, age, draining: false, queue: 0, haves, reading, zone: None },
            now,
        );
    }
    let mut pursuit = swarm.pursue(AT, false, now);
    let retry = Duration::from_millis(100);
    for pause in [100, 100, 200, 400, 500].map(Duration::from_millis) {
        for _ in 0..2 {
            let Step::Ask { node, .. } = swarm.next_step(&mut pursuit, now) else {
                panic!("nobody is asked")
            };
            swarm.outcome(&mut pursuit, node, &Outcome::Busy(retry), now);
        }
        assert_eq!(swarm.next_step(&mut pursuit, now), Step::Wait(pause));
    }
}
