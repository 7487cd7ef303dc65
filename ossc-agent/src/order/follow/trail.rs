//! One reader's way as far as it can be foretold, and how far ahead of it to fetch. Pure; driven by `follow`.

use super::super::Plan;
use super::super::merge::{self, Block};
use super::{SLACK, Touch};
use crate::base::{ByteRange, FileId, Layout};

/// Touches that must have fallen where a trail said before it is believed: the third read in a row.
const CONFIRMED: u32 = 2;
/// How far ahead of a reader to fetch at first, in bytes: what a wrong guess costs.
const MIN_DISTANCE: u64 = 32 << 20;
/// How far at most: 40 ms of a 100 Gbit/s link, of which a held reader takes its share first in any case.
const MAX_DISTANCE: u64 = 512 << 20;
/// Most bytes of one piece, so that the windows of several readers take turns.
const PIECE: u64 = 16 << 20;

/// What a trail says of the next access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// At this place of the plan.
    Plan { next: usize },
    /// In the file, from this block on.
    Sequential { file: FileId, next: u32 },
    /// In the file, as long as the last one and this far behind (or before) its start.
    Strided { file: FileId, last: ByteRange, stride: i64 },
}

impl Course {
    /// Along the plan, if it has what was touched.
    pub(super) fn along_plan(touch: &Touch) -> Option<Self> {
        touch.places.map(|(_, last)| Self::Plan { next: last + 1 })
    }

    /// On through the file.
    pub(super) fn sequential(touch: &Touch) -> Self {
        Self::Sequential { file: touch.file, next: touch.blocks.end }
    }

    /// As far again as from the touch that began at `before`.
    pub(super) fn strided(touch: &Touch, before: Option<u64>) -> Option<Self> {
        let stride = i64::try_from(i128::from(touch.range.start()) - i128::from(before?)).ok()?;
        (stride != 0).then_some(Self::Strided { file: touch.file, last: touch.range, stride })
    }

    /// The range `steps` strides behind the last one; `None` outside of any file.
    fn at_stride(last: ByteRange, stride: i64, steps: i64) -> Option<ByteRange> {
        let start = last.start().checked_add_signed(stride.checked_mul(steps)?)?;
        Some(ByteRange::new(start, start.checked_add(last.len())?))
    }
}

/// A course, and how much it is believed.
#[derive(Debug)]
pub(super) struct Trail {
    course: Course,
    /// Touches that fell where it said.
    hits: u32,
    /// Bytes to fetch ahead.
    distance: u64,
    /// Bytes ahead of the reader that were ready at its last touch.
    margin: u64,
    /// Bytes read since its window was given out.
    used: u64,
}

impl Trail {
    pub(super) fn new(course: Course) -> Self {
        Self { course, hits: 0, distance: MIN_DISTANCE, margin: 0, used: 0 }
    }

    pub(super) fn is_along_plan(&self) -> bool {
        matches!(self.course, Course::Plan { .. })
    }

    pub(super) fn is_confirmed(&self) -> bool {
        self.hits >= CONFIRMED
    }

    pub(super) fn expects(&self, touch: &Touch) -> bool {
        match self.course {
            Course::Plan { next } => touch.places.is_some_and(|(first, _)| first.abs_diff(next) <= SLACK),
            Course::Sequential { file, next } => touch.file == file && touch.blocks.start == next,
            Course::Strided { file, last, stride } => {
                let expected = Course::at_stride(last, stride, 1);
                touch.file == file && expected.is_some_and(|range| range.start() == touch.range.start())
            }
        }
    }

    /// The touch fell where it said.
    pub(super) fn advance(&mut self, touch: &Touch) {
        self.hits += 1;
        match &mut self.course {
            Course::Plan { next } => {
                *next = (*next).max(touch.places.map_or(0, |(_, last)| last + 1));
            }
            Course::Sequential { next, .. } => *next = touch.blocks.end,
            Course::Strided { last, .. } => *last = touch.range,
        }
    }

    /// What comes next on the way, `distance` bytes of it, in pieces.
    pub(super) fn ahead(&self, layouts: &[Layout], order: &[Block]) -> Plan {
        let layout = |file: FileId| layouts.get(file.index()).copied();
        let mut left = self.distance;
        // A range counts as the blocks it needs.
        let mut within = |file: FileId, range: ByteRange| {
            let blocks = layout(file).map_or(0..0, |layout| layout.blocks_of(range));
            let bytes = layout(file).map_or(0, |layout| layout.range_of_blocks(blocks.clone()).len());
            let is_within = left > 0 && bytes > 0;
            left = left.saturating_sub(bytes);
            is_within.then_some((file, blocks))
        };
        let blocks: Vec<Block> = match self.course {
            Course::Plan { next } => {
                let rest = order.get(next..).unwrap_or_default().iter();
                let range = |file, block| layout(file).map(|layout| layout.range_of_blocks(block..block + 1));
                rest.map_while(|&(file, block)| within(file, range(file, block)?).map(|_| (file, block)))
                    .collect()
            }
            Course::Sequential { file, next } => {
                let count = layout(file).map_or(0, Layout::block_count);
                let range = |block| layout(file).map(|layout| layout.range_of_blocks(block..block + 1));
                (next..count).map_while(|block| within(file, range(block)?).map(|_| (file, block))).collect()
            }
            Course::Strided { file, last, stride } => (1..)
                .map_while(|steps| within(file, Course::at_stride(last, stride, steps)?))
                .flat_map(|(file, blocks)| blocks.map(move |block| (file, block)))
                .collect(),
        };
        merge::plan(layouts, blocks).into_iter().flat_map(|(file, range)| pieces(file, range)).collect()
    }

    /// Its reader has touched `bytes` and was `held` for them or not. Whether its window should be given out:
    /// when it becomes believed, goes farther, or a quarter of it is used up.
    pub(super) fn adapt(
        &mut self,
        held: bool,
        bytes: u64,
        ahead: &Plan,
        is_ready: impl Fn(FileId, ByteRange) -> bool,
    ) -> bool {
        if !self.is_confirmed() {
            return false;
        }
        let ready = ahead.iter().take_while(|(file, range)| is_ready(*file, *range));
        let margin = ready.map(|(_, range)| range.len()).sum();
        let is_shrinking = margin < self.margin && margin < self.distance / 2;
        let is_new = self.hits == CONFIRMED;
        self.margin = margin;
        self.used = self.used.saturating_add(bytes);
        let grows = !is_new && (held || is_shrinking) && self.distance < MAX_DISTANCE;
        if grows {
            self.distance = (2 * self.distance).min(MAX_DISTANCE);
        }
        let is_due = is_new || grows || self.used >= self.distance / 4;
        if is_due {
            self.used = 0;
        }
        is_due
    }
}

/// The range in pieces.
fn pieces(file: FileId, range: ByteRange) -> impl Iterator<Item = (FileId, ByteRange)> {
    let starts = std::iter::successors(Some(range.start()), |start| start.checked_add(PIECE));
    let ends = move |start: u64| ByteRange::new(start, start.saturating_add(PIECE).min(range.end()));
    starts.take_while(move |start| *start < range.end()).map(move |start| (file, ends(start)))
}
