//! In which order a file is touched: told apart from the steps between one access and the next. Pure.
//!
//! A step that begins inside or right behind the access before goes on with the same run; any other step
//! jumps and begins a new run. Jumps that are mostly of one length are a stride.

use std::collections::HashMap;

use serde::Serialize;

use crate::base::{AccessKind, ByteRange};

/// Different jump lengths that are counted; a reader with more has no stride.
const JUMPS_MAX: usize = 64;
/// How far ahead a fault may be and still go on with its run: what one fault maps does not fault again. That is a
/// large folio, a huge page at most; since Linux 6.18 all of it is mapped, but only 64 KiB are reported
/// (`filemap_map_pages`, mm/filemap.c).
const FAULT_REACH: u64 = 2 << 20;
/// Runs of a thread that are still called sequential.
const FEW_RUNS: u64 = 10;
/// Runs this long are sequential however many there are: a jump costs nothing beside them.
const LONG_RUN: u64 = 64 << 20;
/// Equal jumps below this number are chance.
const STRIDE_JUMPS_MIN: u64 = 3;

/// The order in which a file was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(super) enum Order {
    /// Nothing was read or faulted.
    None,
    /// Long runs, each from its begin to its end.
    Sequential,
    /// Jumps of mostly one length, from the begin of a run to the begin of the next.
    Strided {
        /// Bytes; negative towards the begin of the file.
        stride: i128,
    },
    /// Anything else.
    Random,
}

/// Counts the steps of one thread in one file, or those of several together.
#[derive(Debug, Clone, Default)]
pub(super) struct Steps {
    last: Option<Last>,
    accesses: u64,
    bytes: u64,
    runs: u64,
    jumps: HashMap<i128, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    run_start: u64,
    range: ByteRange,
}

impl Steps {
    /// Notes the next access.
    pub(super) fn step(&mut self, kind: AccessKind, range: ByteRange) {
        self.accesses += 1;
        self.bytes = self.bytes.saturating_add(range.len());
        let reach = if kind == AccessKind::Fault { FAULT_REACH } else { 0 };
        let run_start = match self.last {
            Some(last) if goes_on(kind, last.range, range, reach) => last.run_start,
            Some(last) => {
                let jump = i128::from(range.start()) - i128::from(last.run_start);
                if self.jumps.len() < JUMPS_MAX || self.jumps.contains_key(&jump) {
                    *self.jumps.entry(jump).or_default() += 1;
                }
                self.runs += 1;
                range.start()
            }
            None => {
                self.runs += 1;
                range.start()
            }
        };
        self.last = Some(Last { run_start, range });
    }

    /// Adds the steps of another thread. What is counted from here on is no step of either.
    pub(super) fn add(&mut self, other: &Self) {
        self.last = None;
        self.accesses += other.accesses;
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.runs += other.runs;
        for (&jump, count) in &other.jumps {
            *self.jumps.entry(jump).or_default() += count;
        }
    }

    /// How many runs there were.
    pub(super) fn runs(&self) -> u64 {
        self.runs
    }

    /// What the steps look like, made by so many threads.
    pub(super) fn order(&self, threads: u64) -> Order {
        if self.accesses == 0 {
            return Order::None;
        }
        let jumps = self.runs.saturating_sub(threads);
        let common = self.jumps.iter().max_by_key(|&(jump, count)| (count, std::cmp::Reverse(jump.abs())));
        if let Some((&stride, &count)) = common
            && count >= STRIDE_JUMPS_MIN
            && count.saturating_mul(5) >= jumps.saturating_mul(4)
        {
            return Order::Strided { stride };
        }
        let few = FEW_RUNS.saturating_mul(threads).max(self.bytes / LONG_RUN);
        let rarely = jumps.saturating_mul(10) <= self.accesses;
        if jumps == 0 || (rarely && self.runs <= few) { Order::Sequential } else { Order::Random }
    }
}

/// Whether `next` goes on from `last`: it begins inside it, or at most `reach` behind it. A fault also goes on
/// when it covers the one before: a page that was not there is told alone, and then again with its neighbours.
pub(super) fn goes_on(kind: AccessKind, last: ByteRange, next: ByteRange, reach: u64) -> bool {
    let ahead = last.start() <= next.start() && next.start() <= last.end().saturating_add(reach);
    let around = next.start() <= last.start() && last.end() <= next.end();
    ahead || (around && kind == AccessKind::Fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn order(kind: AccessKind, length: u64, starts: impl IntoIterator<Item = u64>) -> Order {
        let mut steps = Steps::default();
        starts.into_iter().for_each(|start| steps.step(kind, ByteRange::new(start, start + length)));
        steps.order(1)
    }

    #[test]
    fn tells_the_orders_apart() {
        use AccessKind::{Fault, Read};
        assert_eq!(order(Read, MIB, []), Order::None);
        assert_eq!(order(Read, MIB, [5 * MIB]), Order::Sequential);
        assert_eq!(order(Read, MIB, (0..50).map(|n| n * MIB)), Order::Sequential);
        // A header first, then everything from the begin.
        assert_eq!(
            order(Read, MIB, [70 * MIB].into_iter().chain((0..50).map(|n| n * MIB))),
            Order::Sequential
        );
        let stride = i128::from(16 * MIB);
        assert_eq!(order(Read, 4096, (0..50).map(|n| n * 16 * MIB)), Order::Strided { stride });
        assert_eq!(
            order(Read, 4096, (0..50).rev().map(|n| n * 16 * MIB)),
            Order::Strided { stride: -stride }
        );
        // Each stop of the stride read in four pieces.
        assert_eq!(
            order(Read, MIB, (0..50).map(|n| n / 4 * 16 * MIB + n % 4 * MIB)),
            Order::Strided { stride }
        );
        let mut random = fastrand::Rng::with_seed(3);
        assert_eq!(order(Read, 4096, (0..50).map(|_| random.u64(0..1 << 40))), Order::Random);
        // Random blocks of 4 MiB, each read in pieces of 128 KiB.
        let blocks: Vec<_> = (0..50).map(|_| random.u64(0..1000) * 4 * MIB).collect();
        let pieces = (0..1600).map(|n| blocks[n / 32] + n as u64 % 32 * (MIB / 8));
        assert_eq!(order(Read, MIB / 8, pieces), Order::Random);
        // A fault may skip what the one before has mapped; a read that skips has jumped.
        assert_eq!(order(Fault, 4096, (0..50).map(|n| n * MIB)), Order::Sequential);
        assert_eq!(order(Read, 4096, (0..50).map(|n| n * 65536)), Order::Strided { stride: 65536 });
    }

    #[test]
    fn the_steps_of_several_threads_add_up() {
        let mut all = Steps::default();
        for thread in 0..4 {
            let mut steps = Steps::default();
            for n in 0..10 {
                let start = (n * 4 + thread) * 16 * MIB;
                steps.step(AccessKind::Read, ByteRange::new(start, start + MIB));
            }
            all.add(&steps);
        }
        assert_eq!((all.runs(), all.order(4)), (40, Order::Strided { stride: i128::from(64 * MIB) }));
    }
}
