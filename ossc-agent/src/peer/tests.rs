//! The decisions of all nodes together, on simulated links and clocks: what the whole cluster reads from the origin,
//! and that trouble ends. Speeds are compared only with each other, in simulated time.

mod sim;

use std::time::Duration;

use self::sim::{Setup, Sim};

const NODES: usize = 12;
const BLOCKS: u32 = 600;

fn setup() -> Setup {
    Setup { nodes: NODES, blocks: BLOCKS, ..Setup::default() }
}

/// Origin reads in percent of one model.
fn percent(sim: &Sim) -> u64 {
    u64::from(sim.origin_reads) * 100 / u64::from(BLOCKS)
}

#[test]
fn nodes_that_start_together_read_the_origin_once_and_take_no_longer_than_one() {
    let alone = Sim::run(Setup { nodes: 1, ..setup() });
    assert_eq!(alone.origin_reads, BLOCKS);
    let sim = Sim::run(setup());
    assert!(percent(&sim) <= 102, "{} %", percent(&sim));
    let (mean, one) = (sim.mean_finish(), alone.mean_finish());
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
    let sim = Sim::run(Setup { slow: Some((4, 4)), ..setup() });
    assert!(percent(&sim) <= 105, "{} %", percent(&sim));
    let (others, before) = (sim.mean_finish_without(4), even.mean_finish());
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
    assert_eq!(sim.origin_reads, 3 * BLOCKS);
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
    let slow = Setup { nodes: 8, blocks: 400, block_time: Some(Duration::from_millis(168)), ..setup() };
    let alone = Sim::run(Setup { nodes: 1, ..slow.clone() });
    let sim = Sim::run(slow);
    // The first node reads one before it knows the others, which another one owns.
    assert!(sim.origin_reads <= 402, "{} of 400", sim.origin_reads);
    let (mean, one) = (sim.mean_finish(), alone.mean_finish());
    assert!(mean <= one.mul_f64(1.15), "{mean:?} against {one:?}");
}

mod escapes {
    use std::time::Instant;

    use super::*;
    use crate::base::{BlockIndex, BlockSize, FileId, Layout};
    use crate::peer::id::ObjectId;
    use crate::peer::pursuit::{Outcome, Step};
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
}
