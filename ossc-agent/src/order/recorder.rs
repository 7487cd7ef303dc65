//! Records when each block of the model was first touched, whoever reports it: the gate and the probes may tell of
//! the same access, and the earlier one counts. One number a block, so memory is bounded by the model (0.3 MB for
//! 664 GB); noting is a few atomic operations, for the gate's thread and the probes'. Driven by the agent.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::base::{Access, BlockIndex, ByteRange, FileId, Layout};

/// Most steps of a recording. A model of 1 TiB read in shuffled blocks of 16 MiB has as many; of a longer order
/// the beginning is kept.
pub(super) const MAX_STEPS: usize = 1 << 16;
/// A block nobody has touched.
const NEVER: u64 = u64::MAX;
const NS_PER_MS: u64 = 1_000_000;

/// Adjacent blocks of one file, touched in order with nothing between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The file.
    pub file: FileId,
    /// Its bytes, whole blocks.
    pub range: ByteRange,
    /// When the first of them was touched, in milliseconds since the load began.
    pub at_ms: u32,
}

/// First touches of one load.
#[derive(Debug)]
pub struct Recorder {
    began_ns: u64,
    files: Vec<FileTouches>,
}

#[derive(Debug)]
struct FileTouches {
    layout: Layout,
    /// `CLOCK_MONOTONIC` in nanoseconds of each block's first touch.
    first: Box<[AtomicU64]>,
}

impl Recorder {
    /// A recorder of the files with these layouts, of a load that began at `began_ns` (`CLOCK_MONOTONIC`).
    #[must_use]
    pub fn new(layouts: &[Layout], began_ns: u64) -> Self {
        let touches = |&layout: &Layout| {
            let first = (0..layout.block_count()).map(|_| AtomicU64::new(NEVER)).collect();
            FileTouches { layout, first }
        };
        Self { began_ns, files: layouts.iter().map(touches).collect() }
    }

    /// Notes an access. An open touches nothing.
    pub fn note(&self, access: &Access) {
        let Some(file) = self.files.get(access.file.index()) else { return };
        let blocks = file.layout.blocks_of(access.range);
        for first in file.first.get(blocks.start as usize..blocks.end as usize).unwrap_or_default() {
            // Most accesses are not the first of their block, and a load costs less than an exchange.
            if access.at_ns < first.load(Relaxed) {
                first.fetch_min(access.at_ns, Relaxed);
            }
        }
    }

    /// How many blocks were touched so far, of how many.
    #[must_use]
    pub fn touched(&self) -> (u64, u64) {
        let blocks = || self.files.iter().flat_map(|file| &file.first);
        let touched = blocks().filter(|first| first.load(Relaxed) != NEVER).count();
        (touched as u64, blocks().count() as u64)
    }

    /// What was touched so far, in order.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let mut touched: Vec<(u64, FileId, u32)> = (0..)
            .map(FileId)
            .zip(&self.files)
            .flat_map(|(id, file)| {
                (0..).zip(&file.first).map(move |(block, first)| (first.load(Relaxed), id, block))
            })
            .filter(|(at, ..)| *at != NEVER)
            .collect();
        touched.sort_unstable();
        let mut steps: Vec<Step> = Vec::new();
        for (at, id, block) in touched {
            let Some(file) = self.files.get(id.index()) else { continue };
            let range = file.layout.range_of(BlockIndex(block));
            let is_full = steps.len() == MAX_STEPS;
            match steps.last_mut() {
                Some(last) if last.file == id && last.range.end() == range.start() => {
                    last.range = ByteRange::new(last.range.start(), range.end());
                }
                _ if is_full => break,
                _ => {
                    let ms = at.saturating_sub(self.began_ns) / NS_PER_MS;
                    let at_ms = u32::try_from(ms).unwrap_or(u32::MAX);
                    steps.push(Step { file: id, range, at_ms });
                }
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{AccessKind, BlockSize};

    const B: u64 = 2 << 20;

    fn recorder() -> Recorder {
        let layout = |size| Layout::new(size, BlockSize::MIN).unwrap();
        Recorder::new(&[layout(4 * B), layout(3 * B + 1)], 1_000_000)
    }

    fn note(recorder: &Recorder, file: u32, start: u64, end: u64, at_ms: u64) {
        let range = ByteRange::new(start, end);
        let at_ns = (at_ms + 1) * NS_PER_MS;
        recorder.note(&Access { file: FileId(file), range, kind: AccessKind::Read, pid: 1, tid: 1, at_ns });
    }

    fn steps(recorder: &Recorder) -> Vec<(u32, u64, u64, u32)> {
        let steps = recorder.steps().into_iter();
        steps.map(|step| (step.file.0, step.range.start(), step.range.end(), step.at_ms)).collect()
    }

    #[test]
    fn the_first_touch_counts_in_whatever_order_it_is_told() {
        let recorder = recorder();
        note(&recorder, 1, B, B + 1, 20);
        note(&recorder, 0, 3 * B, 3 * B + 4096, 10);
        note(&recorder, 1, 0, 4 * B, 30);
        note(&recorder, 1, B + 7, B + 8, 5);
        note(&recorder, 0, 3 * B, 4 * B, 40);
        assert_eq!(recorder.touched(), (5, 8));
        assert_eq!(
            steps(&recorder),
            [(1, B, 2 * B, 5), (0, 3 * B, 4 * B, 10), (1, 0, B, 30), (1, 2 * B, 3 * B + 1, 30)]
        );
    }

    #[test]
    fn a_sequential_reader_makes_one_step() {
        let recorder = recorder();
        (0..64).for_each(|read| note(&recorder, 0, read * B / 16, (read + 1) * B / 16, read));
        assert_eq!(steps(&recorder), [(0, 0, 4 * B, 0)]);
    }

    #[test]
    fn opens_and_what_is_not_there_touch_nothing() {
        let recorder = recorder();
        note(&recorder, 0, 0, 0, 1);
        note(&recorder, 0, 5 * B, 6 * B, 1);
        note(&recorder, 2, 0, B, 1);
        note(&recorder, u32::MAX, 0, u64::MAX, 1);
        assert_eq!(steps(&recorder), []);
    }
}
