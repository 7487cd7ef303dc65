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
