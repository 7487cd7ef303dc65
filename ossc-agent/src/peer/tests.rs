//! The decisions of all nodes together, on simulated links and clocks: what the whole cluster reads from the origin,
//! and that trouble ends. Speeds are compared only with each other, in simulated time.

use std::time::Duration;

use crate::peer::sim::{Links, Setup, Sim};

const NODES: usize = 12;
const BLOCKS: u32 = 1200;

/// What each node took, on average.
fn mean(sim: &Sim) -> Duration {
    let took = sim.took();
    took.iter().sum::<Duration>() / u32::try_from(took.len()).unwrap()
}

fn setup() -> Setup {
    Setup { nodes: NODES, blocks: BLOCKS, ..Setup::default() }
}

/// Origin reads in percent of one model.
fn percent(sim: &Sim) -> u64 {
    u64::from(sim.origin_reads()) * 100 / u64::from(BLOCKS)
}

#[test]
fn nodes_that_start_together_read_the_origin_once_and_take_no_longer_than_one() {
    let alone = Sim::run(Setup { nodes: 1, ..setup() });
    assert_eq!(alone.origin_reads(), BLOCKS);
    let sim = Sim::run(setup());
    assert!(percent(&sim) <= 102, "{} %", percent(&sim));
    let (mean, one) = (mean(&sim), mean(&alone));
    assert!(mean <= one.mul_f64(1.25), "{mean:?} against {one:?}");
}

#[test]
fn nodes_that_join_one_by_one_read_little_more() {
    let sim = Sim::run(Setup { spread: Duration::from_secs(4), ..setup() });
    assert!(percent(&sim) <= 110, "{} %", percent(&sim));
}

#[test]
fn deaths_in_the_middle_cost_little_and_stop_nobody() {
    let deaths = vec![(2, Duration::from_secs(2)), (7, Duration::from_secs(2))];
    let sim = Sim::run(Setup { deaths, ..setup() });
    assert!(percent(&sim) <= 110, "{} %", percent(&sim));
    assert_eq!(sim.finished(), NODES - 2);
}

#[test]
fn a_node_whose_bytes_are_wrong_is_left_alone() {
    let sim = Sim::run(Setup { liar: Some(3), ..setup() });
    assert!(percent(&sim) <= 120, "{} %", percent(&sim));
    assert_eq!(sim.finished(), NODES);
}

#[test]
fn a_slow_node_does_not_slow_the_others() {
    let even = Sim::run(setup());
    let sim = Sim::run(Setup { slow: Some((NODES, 4)), ..setup() });
    assert!(percent(&sim) <= 105, "{} %", percent(&sim));
    let (others, before) = (mean(&sim), mean(&even));
    assert!(others <= before.mul_f64(1.25), "{others:?} against {before:?}");
}

#[test]
fn a_late_node_takes_everything_from_the_others() {
    let sim = Sim::run(Setup { late: Some((5, Duration::from_secs(60))), ..setup() });
    assert!(percent(&sim) <= 102, "{} %", percent(&sim));
    assert_eq!(sim.finished(), NODES);
}

#[test]
fn nodes_that_cannot_reach_each_other_read_for_themselves() {
    let sim = Sim::run(Setup { nodes: 3, cut: true, ..setup() });
    assert_eq!(sim.origin_reads(), 3 * BLOCKS);
    assert_eq!(sim.finished(), 3);
}

#[test]
fn readers_of_far_blocks_wait_for_nobody_in_a_circle() {
    // Every node wants the model from another place: each waits for blocks that others own.
    let sim = Sim::run(Setup { scattered: true, ..setup() });
    assert!(percent(&sim) <= 105, "{} %", percent(&sim));
    assert_eq!(sim.finished(), NODES);
}

#[test]
fn slow_links_are_no_trouble() {
    // Blocks of 2 MiB at 100 Mbit/s, fifty for each node: what everybody waits for takes seconds, and nobody is to lose
    // patience.
    let each = Duration::from_millis(168);
    let links = Links { up: each, down: each, origin: each / 2, ..Setup::default().links };
    let slow = Setup { nodes: 8, blocks: 400, links, ..setup() };
    let alone = Sim::run(Setup { nodes: 1, ..slow.clone() });
    let sim = Sim::run(slow);
    // The first node reads one before it knows the others, which another one owns.
    assert!(sim.origin_reads() <= 402, "{} of 400", sim.origin_reads());
    let (mean, one) = (mean(&sim), mean(&alone));
    assert!(mean <= one.mul_f64(1.15), "{mean:?} against {one:?}");
}

#[test]
fn old_news_hold_nobody_up() {
    // So many nodes that it takes longer to ask them all what they have than owners trust what they heard.
    let many = Setup { nodes: 48, blocks: 2400, warm: true, ..setup() };
    let alone = Sim::run(Setup { nodes: 1, ..many.clone() });
    let sim = Sim::run(many);
    assert!(sim.origin_reads() <= 2410, "{} of 2400", sim.origin_reads());
    let (mean, one) = (mean(&sim), mean(&alone));
    assert!(mean <= one.mul_f64(1.25), "{mean:?} against {one:?}");
}

mod pursuits {
    use std::time::Instant;

    use super::*;
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
}
