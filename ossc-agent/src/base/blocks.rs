//! Blocks: the unit of readiness, of checksums and, later, of exchange between nodes.

use std::fmt;
use std::ops::Range;

use super::ByteRange;

/// Index of a file in the catalog of one load; stable while the agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

impl FileId {
    /// The index as a slice index.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Index of a block in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockIndex(pub u32);

/// Bytes of a block: a power of two and a multiple of the kernel's 64 KiB fault-around window (`mm/memory.c`,
/// `fault_around_bytes`). Blocks below a huge page are only for small models on slow links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockSize(u32);

impl BlockSize {
    /// 2 MiB, a huge page: the least that is chosen.
    pub const MIN: Self = Self(2 << 20);
    /// 128 KiB, if the user says so.
    pub const LEAST: Self = Self(128 << 10);
    /// 16 MiB: at 664 GB still under 42 000 blocks, and about 1 ms on a 100 Gbit/s wire.
    pub const MAX: Self = Self(16 << 20);

    /// The size if it is a power of two within the limits.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        let bytes = u32::try_from(bytes).ok()?;
        (bytes.is_power_of_two() && (Self::LEAST.0..=Self::MAX.0).contains(&bytes)).then_some(Self(bytes))
    }

    /// The size for a model of `total` bytes: about 4096 blocks, within the limits.
    #[must_use]
    pub fn for_model(total: u64) -> Self {
        let wanted = (total / 4096).clamp(u64::from(Self::MIN.0), u64::from(Self::MAX.0));
        Self::new(wanted.next_power_of_two()).unwrap_or(Self::MAX)
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }
}

/// How a file of some size divides into blocks; the last one may be short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    size: u64,
    block_size: BlockSize,
    blocks: u32,
}

impl Layout {
    /// The layout, unless the file has more than `u32::MAX` blocks (8 PiB at the smallest size).
    #[must_use]
    pub fn new(size: u64, block_size: BlockSize) -> Option<Self> {
        let blocks = u32::try_from(size.div_ceil(block_size.bytes())).ok()?;
        Some(Self { size, block_size, blocks })
    }

    /// Bytes of the file.
    #[must_use]
    pub fn size(self) -> u64 {
        self.size
    }

    /// Bytes of a full block.
    #[must_use]
    pub fn block_size(self) -> BlockSize {
        self.block_size
    }

    /// How many blocks there are; 0 for an empty file.
    #[must_use]
    pub fn block_count(self) -> u32 {
        self.blocks
    }

    /// The bytes of one block; empty if there is no such block.
    #[must_use]
    pub fn range_of(self, block: BlockIndex) -> ByteRange {
        self.range_of_blocks(block.0..block.0.saturating_add(1))
    }

    /// The bytes of adjacent blocks.
    #[must_use]
    pub fn range_of_blocks(self, blocks: Range<u32>) -> ByteRange {
        let at = |block: u32| (u64::from(block) * self.block_size.bytes()).min(self.size);
        ByteRange::new(at(blocks.start), at(blocks.end))
    }

    /// The blocks that hold any byte of `range`; bytes behind the end of the file need none.
    #[must_use]
    pub fn blocks_of(self, range: ByteRange) -> Range<u32> {
        let range = range.clip(self.size);
        if range.is_empty() {
            return 0..0;
        }
        let first = range.start() / self.block_size.bytes();
        let end = range.end().div_ceil(self.block_size.bytes());
        // Both are at most `self.blocks`, which is a u32.
        let cast = |block: u64| u32::try_from(block).unwrap_or(self.blocks);
        cast(first)..cast(end)
    }
}

/// Adjacent blocks of one file, fetched with one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The file.
    pub file: FileId,
    /// Its blocks.
    pub blocks: Range<u32>,
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {} blocks {}..{}", self.file.0, self.blocks.start, self.blocks.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: u64) -> Layout {
        Layout::new(size, BlockSize::MIN).unwrap()
    }

    #[test]
    fn block_size_accepts_only_powers_of_two_within_limits() {
        for (bytes, ok) in [
            (64 << 10, false),
            (128 << 10, true),
            (2 << 20, true),
            (3 << 20, false),
            (16 << 20, true),
            (32 << 20, false),
        ] {
            assert_eq!(BlockSize::new(bytes).is_some(), ok, "{bytes}");
        }
    }

    #[test]
    fn block_size_grows_with_the_model() {
        for (total, mib) in [(0, 2), (2 << 30, 2), (16 << 30, 4), (664_000_000_000, 16)] {
            assert_eq!(BlockSize::for_model(total).bytes(), mib << 20, "{total}");
        }
    }

    #[test]
    fn ranges_map_to_the_blocks_that_hold_them() {
        let b = BlockSize::MIN.bytes();
        let l = layout(2 * b + 1);
        for (start, end, blocks) in [
            (0, 1, 0..1),
            (0, b, 0..1),
            (b - 1, b + 1, 0..2),
            (2 * b, 2 * b + 1, 2..3),
            (2 * b, u64::MAX, 2..3),
            (2 * b + 1, u64::MAX, 0..0),
            (5, 5, 0..0),
        ] {
            assert_eq!(l.blocks_of(ByteRange::new(start, end)), blocks, "{start}..{end}");
        }
        assert_eq!(l.range_of(BlockIndex(2)), ByteRange::new(2 * b, 2 * b + 1));
        assert!(l.range_of(BlockIndex(3)).is_empty());
        assert_eq!(layout(0).block_count(), 0);
    }
}
