//! The marks of a picture of offset against time, few enough for a page however long the trace was. Pure.
//!
//! Every line is a mark as long as there is room. When there is none, marks of one thread and kind that lie in
//! one bin of time and beside each other in the file become one; the bins grow until there is room again. They
//! begin finer than a screen shows, so what is lost is only what zooming in would have shown.

use super::coalesce::Line;
use crate::base::ByteRange;

/// Marks of a page: about 40 bytes each in its text, so a page stays near a megabyte.
const MARKS_MAX: usize = 30_000;
/// First bins of time: finer than the widest screen has points.
const TIME_BINS: u64 = 4096;
/// First grain of offsets, as a share of the file: finer than a file's part of the screen has points.
const OFFSET_BINS: u64 = 1024;

/// A stretch of a file that a thread went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// The line, or the lines together, with gaps where they are a heap.
    pub(super) line: Line,
    /// Whether it was gone through from its start to its end, so that a line from corner to corner shows it; else
    /// it is a heap of accesses.
    pub(super) is_sweep: bool,
}

/// All marks.
#[derive(Debug)]
pub(super) struct Picture {
    /// Sizes of the files.
    sizes: Vec<u64>,
    marks: Vec<Mark>,
    limit: usize,
    /// Nanoseconds; 0 = nothing had to be merged.
    bin_ns: u64,
    offset_bins: u64,
}

impl Picture {
    pub(super) fn new(sizes: Vec<u64>) -> Self {
        Self { sizes, marks: Vec::new(), limit: MARKS_MAX, bin_ns: 0, offset_bins: OFFSET_BINS }
    }

    pub(super) fn add(&mut self, line: &Line) {
        self.marks.push(Mark { line: *line, is_sweep: true });
        while self.marks.len() > self.limit {
            self.coarsen();
        }
    }

    /// The marks in the order of their files and first accesses.
    pub(super) fn marks(&mut self) -> &[Mark] {
        self.marks.sort_by_key(|mark| (mark.line.file, mark.line.first_ns));
        &self.marks
    }

    /// Below this many nanoseconds the picture shows nothing; 0 = it shows every line.
    pub(super) fn bin_ns(&self) -> u64 {
        self.bin_ns
    }

    fn coarsen(&mut self) {
        let span = self.marks.iter().map(|mark| mark.line.last_ns).max().unwrap_or(0);
        self.bin_ns = self.bin_ns.max(span / TIME_BINS).max(1);
        self.merge();
        // Half, or the next line would bring us here again.
        while self.marks.len() > self.limit / 2 {
            let time_bins = span / self.bin_ns;
            if time_bins == 0 && self.offset_bins == 0 {
                // One mark for each thread, kind and file: then that many it must be.
                self.limit = self.limit.max(self.marks.len().saturating_mul(2));
                return;
            }
            if time_bins > self.offset_bins.saturating_mul(TIME_BINS / OFFSET_BINS / 2) {
                self.bin_ns = self.bin_ns.saturating_mul(2);
            } else {
                self.offset_bins /= 2;
            }
            self.merge();
        }
    }

    fn merge(&mut self) {
        let bin = self.bin_ns;
        self.marks.sort_by_key(|Mark { line, .. }| {
            (line.file, line.tid, line.kind as u8, line.first_ns / bin, line.range.start())
        });
        let mut merged: Vec<Mark> = Vec::with_capacity(self.marks.len() / 2);
        for mark in self.marks.drain(..) {
            let size = self.sizes.get(mark.line.file.index()).copied().unwrap_or(0);
            let reach = size.checked_div(self.offset_bins).unwrap_or(size);
            match merged.last_mut() {
                Some(before) if before.is_beside(&mark, bin, reach) => before.take(&mark),
                _ => merged.push(mark),
            }
        }
        self.marks = merged;
    }
}

impl Mark {
    /// Whether `next`, which starts behind this one's start, is of the same thread, kind, file and bin, and near.
    fn is_beside(&self, next: &Self, bin: u64, reach: u64) -> bool {
        let of = |mark: &Self| (mark.line.file, mark.line.tid, mark.line.kind, mark.line.first_ns / bin);
        let in_one_bin = |mark: &Self| mark.line.first_ns / bin == mark.line.last_ns / bin;
        of(self) == of(next)
            && in_one_bin(self)
            && in_one_bin(next)
            && next.line.range.start() <= self.line.range.end().saturating_add(reach)
    }

    fn take(&mut self, next: &Self) {
        let (line, next_line) = (&mut self.line, &next.line);
        let goes_on = line.last_ns <= next_line.first_ns && line.range.end() == next_line.range.start();
        self.is_sweep &= next.is_sweep && goes_on;
        line.first_ns = line.first_ns.min(next_line.first_ns);
        line.last_ns = line.last_ns.max(next_line.last_ns);
        line.range = ByteRange::new(line.range.start(), line.range.end().max(next_line.range.end()));
        line.count = line.count.saturating_add(next_line.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Access, AccessKind, FileId};
    use crate::trace::coalesce::Coalescer;

    const GIB: u64 = 1 << 30;
    const FILE: u64 = 44 * GIB;

    /// Feeds accesses, a millisecond apart, through a coalescer into a picture of 15 files.
    fn picture(accesses: impl Iterator<Item = (u32, u32, u64, u64)>) -> Picture {
        let (mut coalescer, mut picture) = (Coalescer::default(), Picture::new(vec![FILE; 15]));
        for (at, (file, tid, start, length)) in accesses.enumerate() {
            let at_ns = at as u64 * 1_000_000;
            let range = ByteRange::new(start, start + length);
            coalescer.push(&Access { file: FileId(file), range, kind: AccessKind::Read, pid: 1, tid, at_ns });
            coalescer.take(at_ns).iter().for_each(|line| picture.add(line));
        }
        coalescer.finish().iter().for_each(|line| picture.add(line));
        picture
    }

    #[test]
    fn a_small_trace_keeps_every_line() {
        let mut picture = picture((0..1000_u32).map(|n| (n % 15, 1, u64::from(n) << 24, 4096)));
        assert_eq!((picture.marks().len(), picture.bin_ns()), (1000, 0));
    }

    #[test]
    fn a_large_model_read_in_order_stays_a_sweep_through_each_file() {
        // Each file from begin to end, 4 threads taking 8 MiB each in turn: no two lines of a thread touch.
        let piece = 8 << 20;
        let per_file = FILE / piece;
        let mut picture = picture((0..15 * per_file).map(|n| {
            let (file, piece_number) = (u32::try_from(n / per_file).unwrap(), n % per_file);
            (file, u32::try_from(n % 4).unwrap(), piece_number * piece, piece)
        }));
        assert!(picture.bin_ns() > 0);
        let marks = picture.marks();
        assert!((1000..=MARKS_MAX).contains(&marks.len()), "{}", marks.len());
        assert_eq!(marks.iter().map(|mark| mark.line.count).sum::<u64>(), 15 * per_file);
        for mark in marks {
            // What is shown is where the thread was: a mark is no larger than its part of the screen.
            assert!(mark.line.range.len() <= FILE / 64, "{mark:?}");
        }
    }

    #[test]
    fn random_touches_of_everything_are_bounded_too() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut picture = picture(
            (0..200_000).map(|_| (random.u32(0..15), random.u32(0..64), random.u64(0..FILE - 4096), 4096)),
        );
        let marks = picture.marks();
        assert!((1000..=MARKS_MAX).contains(&marks.len()), "{}", marks.len());
        assert_eq!(marks.iter().map(|mark| mark.line.count).sum::<u64>(), 200_000);
        assert!(marks.is_sorted_by_key(|mark| (mark.line.file, mark.line.first_ns)));
    }

    #[test]
    fn more_threads_and_files_than_marks_end_with_one_each() {
        let mut picture = Picture { limit: 10, ..Picture::new(vec![FILE; 15]) };
        for n in 0..3000_u32 {
            picture.add(&{
                let mut coalescer = Coalescer::default();
                let range = ByteRange::new(u64::from(n), u64::from(n) + 1);
                let (file, kind) = (FileId(n % 15), AccessKind::Read);
                coalescer.push(&Access { file, range, kind, pid: 1, tid: n % 4, at_ns: n.into() });
                coalescer.finish()[0]
            });
        }
        assert!(picture.marks().len() <= 60 * 4, "{}", picture.marks().len());
    }
}
