//! Which range of a file to read next: random by a seeded generator, or given on the command line.
//!
//! Driven by the main loop. The random choice is made of what clients do: the end of the file (every reader
//! that looks for a directory there), its first bytes (headers), and ranges of all magnitudes anywhere.

use std::ops::Range;
use std::str::FromStr;

/// 1 MiB: long enough to cross block boundaries often, short enough for many reads a second.
const LONGEST: u64 = 1 << 20;
/// Bytes of a tail read: the last page, which stdio's SEEK_END and zip readers ask for first.
const TAIL: u64 = 4096;

/// A range given on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pick {
    /// `OFFSET+LENGTH`.
    At(u64, u64),
    /// `-LENGTH`: the end of the file.
    Last(u64),
}

impl FromStr for Pick {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(length) = text.strip_prefix('-') {
            return Ok(Self::Last(length.parse()?));
        }
        let (offset, length) =
            text.split_once('+').ok_or_else(|| anyhow::anyhow!("{text} is not OFFSET+LENGTH or -LENGTH"))?;
        Ok(Self::At(offset.parse()?, length.parse()?))
    }
}

impl Pick {
    /// The range within a file of `size` bytes.
    pub(crate) fn resolve(self, size: u64) -> Range<u64> {
        match self {
            Self::At(offset, length) => offset.min(size)..offset.saturating_add(length).min(size),
            Self::Last(length) => size.saturating_sub(length)..size,
        }
    }
}

/// A random, non-empty range; empty only when the file is.
pub(crate) fn random(rng: &mut fastrand::Rng, size: u64) -> Range<u64> {
    if size == 0 {
        return 0..0;
    }
    match rng.u8(..8) {
        0 => size.saturating_sub(rng.u64(1..=TAIL))..size,
        1 => 0..rng.u64(1..=TAIL).min(size),
        _ => {
            // Uniform in the exponent, so that short reads are as frequent as long ones.
            let longest = LONGEST >> rng.u32(..=LONGEST.ilog2());
            let start = rng.u64(..size);
            start..start.saturating_add(rng.u64(1..=longest)).min(size)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ranges_lie_within_the_file() {
        let mut rng = fastrand::Rng::with_seed(7);
        for size in [1, 2, 4095, 4096, 3 << 20] {
            for _ in 0..1000 {
                let range = random(&mut rng, size);
                assert!(range.start < range.end && range.end <= size, "{range:?} of {size}");
            }
        }
    }

    #[test]
    fn given_ranges_are_clipped() {
        for (text, expected) in [("10+20", 10..30), ("90+20", 90..100), ("-4", 96..100), ("-400", 0..100)] {
            assert_eq!(text.parse::<Pick>().unwrap().resolve(100), expected, "{text}");
        }
    }
}
