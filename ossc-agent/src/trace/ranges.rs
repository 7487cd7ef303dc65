//! A set of byte ranges that grows: which part of a file has been touched. Pure.
//!
//! Random touches of a huge file would make it as long as the list of touches. Beyond [`RANGES_MAX`] separate
//! ranges it therefore rounds them outwards to a grain, which it tells: the sum is then an upper bound.

use std::collections::BTreeMap;

use crate::base::ByteRange;

/// Separate ranges kept of one file: some 50 MB of memory at worst.
const RANGES_MAX: usize = 1 << 20;
/// First grain when ranges are rounded: the window of fault-around (`fault_around_bytes`, mm/memory.c).
const FIRST_GRAIN: u64 = 64 << 10;

/// Disjoint ranges that do not touch each other.
#[derive(Debug, Clone)]
pub(super) struct Ranges {
    /// Start to end.
    ranges: BTreeMap<u64, u64>,
    total: u64,
    grain: u64,
    limit: usize,
}

impl Ranges {
    pub(super) fn new() -> Self {
        Self::limited(RANGES_MAX)
    }

    fn limited(limit: usize) -> Self {
        Self { ranges: BTreeMap::new(), total: 0, grain: 1, limit }
    }

    /// Bytes in the set.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Ranges are rounded outwards to multiples of this; 1 = exact.
    pub(super) fn grain(&self) -> u64 {
        self.grain
    }

    pub(super) fn insert(&mut self, range: ByteRange) {
        self.add(range);
        while self.ranges.len() > self.limit {
            self.grain = self.grain.saturating_mul(2).max(FIRST_GRAIN);
            let fine = std::mem::take(&mut self.ranges);
            self.total = 0;
            for (start, end) in fine {
                self.add(ByteRange::new(start, end));
            }
        }
    }

    fn add(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let mut start = range.start() / self.grain * self.grain;
        let mut end = range.end().checked_next_multiple_of(self.grain).unwrap_or(u64::MAX);
        // Everything that overlaps or touches the new range becomes one with it.
        while let Some((&other, &other_end)) = self.ranges.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            if other <= start && end <= other_end {
                return;
            }
            self.ranges.remove(&other);
            self.total -= other_end - other;
            (start, end) = (start.min(other), end.max(other_end));
        }
        self.ranges.insert(start, end);
        self.total += end - start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_and_touching_ranges_are_one() {
        for (inserted, total, count) in [
            (&[][..], 0, 0),
            (&[(5, 5)], 0, 0),
            (&[(0, 10), (20, 30)], 20, 2),
            (&[(0, 10), (10, 20)], 20, 1),
            (&[(10, 20), (0, 10), (15, 30)], 30, 1),
            (&[(0, 5), (10, 15), (20, 25), (3, 22)], 25, 1),
            (&[(0, 100), (20, 30)], 100, 1),
        ] {
            let mut ranges = Ranges::new();
            for &(start, end) in inserted {
                ranges.insert(ByteRange::new(start, end));
            }
            assert_eq!((ranges.total(), ranges.ranges.len()), (total, count), "{inserted:?}");
        }
    }

    #[test]
    fn random_inserts_equal_a_set_of_bytes() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut ranges = Ranges::new();
        let mut model = vec![false; 1000];
        for _ in 0..400 {
            let start = random.u64(0..990);
            let end = start + random.u64(0..10);
            ranges.insert(ByteRange::new(start, end));
            let is_in = |byte: u64| start <= byte && byte < end;
            model.iter_mut().zip(0..).filter(|(_, byte)| is_in(*byte)).for_each(|(inside, _)| *inside = true);
            assert_eq!(ranges.total(), model.iter().filter(|byte| **byte).count() as u64);
        }
    }

    #[test]
    fn beyond_the_limit_it_rounds_outwards_and_says_so() {
        let mut ranges = Ranges::limited(4);
        for index in 0..100_u64 {
            ranges.insert(ByteRange::new(index << 20, (index << 20) + 1));
        }
        assert!(ranges.ranges.len() <= 4 && ranges.grain() > FIRST_GRAIN);
        assert!(ranges.total() >= 100);
    }
}
