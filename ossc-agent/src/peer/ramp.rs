//! How many blocks this node reads from the origin at a time. Pure; driven by [`super::swarm::Swarm`].
//!
//! All nodes share the way to the origin, so each needs few: together twice as many as keep it full. A read takes
//! `least` where there is no queue; with `n` reads that take `took` each, `n * least / took` would do, and twice that
//! is aimed at: the bound of the simulation (2 * O * (L + b/c) / (nodes * b)), in what one node can see. More of them
//! bring no speed, and every block that others wait for comes later.

use std::time::{Duration, Instant};

/// Fewest, and at the begin: one is read while the next one is asked for.
const FEW: u32 = 2;
/// Reads that take so long already do not become more.
const SLOW: Duration = Duration::from_millis(500);
/// "Slow down" counts once in so long: many reads are told at once.
const TOLD: Duration = Duration::from_millis(300);

/// The number of reads.
#[derive(Debug)]
pub(super) struct Ramp {
    slots: u32,
    most: u32,
    /// What a read took in the best round.
    least: Option<Duration>,
    /// Reads of this round, what they took, and whether all places were taken.
    landed: u32,
    sum: Duration,
    was_full: bool,
    told: Option<Instant>,
}

impl Ramp {
    pub(super) fn new(most: u32) -> Self {
        let slots = FEW.min(most);
        Self { slots, most, least: None, landed: 0, sum: Duration::ZERO, was_full: false, told: None }
    }

    /// How many may be under way.
    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    /// A read has ended; `under_way` with it.
    pub(super) fn landed(&mut self, took: Duration, under_way: u32) {
        self.was_full |= under_way >= self.slots;
        self.landed += 1;
        self.sum += took;
        if self.landed < self.slots {
            return;
        }
        let took = std::mem::take(&mut self.sum) / std::mem::take(&mut self.landed);
        // A path that has become slower is believed in the end.
        let least = self.least.map_or(took, |least| (least + least / 64).min(took));
        self.least = Some(least);
        let aim = 2 * u128::from(self.slots) * least.as_micros() / took.as_micros().max(1);
        let aim = u32::try_from(aim).unwrap_or(u32::MAX);
        let aim = if took > SLOW || !std::mem::take(&mut self.was_full) { aim.min(self.slots) } else { aim };
        self.slots = aim.clamp(FEW.min(self.most), self.most);
    }

    /// The origin asks for fewer requests.
    pub(super) fn slow_down(&mut self, now: Instant) {
        if self.told.is_none_or(|told| told + TOLD <= now) {
            self.told = Some(now);
            self.slots = (self.slots / 2).max(1);
            (self.landed, self.sum, self.was_full) = (0, Duration::ZERO, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds on a path that needs `latency` for a read and moves `rate` reads a second at most.
    fn load(ramp: &mut Ramp, others: u32, latency: Duration, rate: u32, rounds: u32) -> u32 {
        for _ in 0..rounds {
            let all = ramp.slots() * (others + 1);
            let took = latency.max(Duration::from_secs(1) * all / rate);
            let slots = ramp.slots();
            (0..slots).for_each(|_| ramp.landed(took, slots));
        }
        ramp.slots()
    }

    #[test]
    fn a_path_with_slow_connections_gets_as_many_as_fill_it_twice() {
        // 50 nodes, 12.5 GB/s, 16 MB blocks, 150 ms for each: 117 fill it, so 5 a node are twice as many.
        assert_eq!(load(&mut Ramp::new(64), 49, Duration::from_millis(150), 781, 9), 5);
        // And one alone takes them all.
        assert_eq!(load(&mut Ramp::new(64), 0, Duration::from_millis(150), 781, 9), 64);
    }

    #[test]
    fn a_slow_path_gets_few() {
        // Eight nodes, blocks of 84 ms.
        assert_eq!(load(&mut Ramp::new(32), 7, Duration::from_millis(84), 12, 20), 2);
    }

    #[test]
    fn fewer_after_a_slow_down_and_no_more_than_are_used() {
        let now = Instant::now();
        let mut ramp = Ramp::new(64);
        load(&mut ramp, 0, Duration::from_millis(100), 10_000, 9);
        ramp.slow_down(now);
        ramp.slow_down(now);
        assert_eq!(ramp.slots(), 32);
        (0..32).for_each(|_| ramp.landed(Duration::from_millis(100), 3));
        assert_eq!(ramp.slots(), 32);
        ramp.slow_down(now + TOLD);
        assert_eq!(ramp.slots(), 16);
    }
}
