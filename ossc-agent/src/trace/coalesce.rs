//! Merges accesses into lines: what one thread does to one file in one way, going on where it was, within a
//! moment. Pure: time comes with the accesses and from the caller.
//!
//! Lines are told in the order of their first access. A line that is done therefore waits for those that
//! began before it and are still open, [`LINE_NS`] at most.

use std::collections::{BTreeMap, HashMap};

use super::order::goes_on;
use crate::base::{Access, AccessKind, ByteRange, FileId};

/// A pause after which a line is done, in nanoseconds: a person would call it two accesses.
const PAUSE_NS: u64 = 100_000_000;
/// A line is done after this long, in nanoseconds, so that a long read shows while it runs, and a picture of
/// the lines shows changes of its pace.
const LINE_NS: u64 = 500_000_000;

/// Merged accesses. Times are nanoseconds since the start of the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) file: FileId,
    pub(super) kind: AccessKind,
    pub(super) pid: u32,
    pub(super) tid: u32,
    /// From the first access's first byte to behind the last byte of all; each access begins inside or right
    /// behind the one before, so there is no gap in it.
    pub(super) range: ByteRange,
    /// When the first access began.
    pub(super) first_ns: u64,
    /// When the last access began.
    pub(super) last_ns: u64,
    /// How many accesses.
    pub(super) count: u64,
    /// The last access's range.
    last: ByteRange,
}

/// What a line is of: thread, file, kind.
type Key = (u32, FileId, AccessKind);

/// The lines that are not told yet.
#[derive(Debug, Default)]
pub(super) struct Coalescer {
    open: HashMap<Key, Line>,
    /// Done lines by their first access; the number keeps lines of one instant apart.
    done: BTreeMap<(u64, u64), Line>,
    next: u64,
}

impl Coalescer {
    /// Adds an access, whose time is given since the start of the trace.
    pub(super) fn push(&mut self, access: &Access) {
        let line = Line {
            file: access.file,
            kind: access.kind,
            pid: access.pid,
            tid: access.tid,
            range: access.range,
            first_ns: access.at_ns,
            last_ns: access.at_ns,
            count: 1,
            last: access.range,
        };
        let key = (access.tid, access.file, access.kind);
        match self.open.get_mut(&key) {
            Some(open) if open.takes(access) => {
                let start = open.range.start().min(access.range.start());
                open.range = ByteRange::new(start, open.range.end().max(access.range.end()));
                open.last_ns = open.last_ns.max(access.at_ns);
                open.count += 1;
                open.last = access.range;
            }
            Some(open) => {
                let done = std::mem::replace(open, line);
                self.done(done);
            }
            None => drop(self.open.insert(key, line)),
        }
    }

    /// The lines that can be told at `now_ns`.
    pub(super) fn take(&mut self, now_ns: u64) -> Vec<Line> {
        self.close(|line| line.is_over(now_ns));
        match self.open.values().map(|line| line.first_ns).min() {
            // The number of a line is never the largest, so lines of the same instant wait.
            Some(oldest) => {
                let later = self.done.split_off(&(oldest, 0));
                std::mem::replace(&mut self.done, later).into_values().collect()
            }
            None => std::mem::take(&mut self.done).into_values().collect(),
        }
    }

    /// All lines that are left.
    pub(super) fn finish(&mut self) -> Vec<Line> {
        self.close(|_| true);
        std::mem::take(&mut self.done).into_values().collect()
    }

    fn close(&mut self, over: impl Fn(&Line) -> bool) {
        let mut closed: Vec<_> = self.open.extract_if(|_, line| over(line)).map(|(_, line)| line).collect();
        // The map's order is random; the output's should not be.
        closed.sort_by_key(|line| (line.first_ns, line.tid, line.file));
        closed.into_iter().for_each(|line| self.done(line));
    }

    fn done(&mut self, line: Line) {
        self.done.insert((line.first_ns, self.next), line);
        self.next += 1;
    }

    /// How many lines wait to be taken.
    pub(super) fn waiting(&self) -> usize {
        self.done.len()
    }
}

impl Line {
    fn takes(&self, access: &Access) -> bool {
        goes_on(self.kind, self.last, access.range, 0) && !self.is_over(access.at_ns)
    }

    fn is_over(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.last_ns) > PAUSE_NS || now_ns.saturating_sub(self.first_ns) > LINE_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn access(at_ms: u64, tid: u32, kind: AccessKind, start: u64, end: u64) -> Access {
        Access { file: FileId(0), range: ByteRange::new(start, end), kind, pid: 1, tid, at_ns: at_ms * MS }
    }

    /// Thread, range and count of a line.
    type Short = (u32, u64, u64, u64);

    fn lines(accesses: &[Access]) -> Vec<Short> {
        let mut coalescer = Coalescer::default();
        accesses.iter().for_each(|access| coalescer.push(access));
        let lines = coalescer.finish();
        assert!(lines.is_sorted_by_key(|line| line.first_ns));
        lines.iter().map(|line| (line.tid, line.range.start(), line.range.end(), line.count)).collect()
    }

    #[test]
    fn what_goes_on_is_one_line() {
        use AccessKind::{Fault, Map, Open, Read};
        let read = |at, start, end| access(at, 1, Read, start, end);
        let cases: [(&str, Vec<Access>, Vec<Short>); 8] = [
            ("adjacent", vec![read(0, 0, 10), read(1, 10, 20), read(2, 20, 30)], vec![(1, 0, 30, 3)]),
            ("again", vec![read(0, 0, 10), read(1, 0, 10)], vec![(1, 0, 10, 2)]),
            ("overlapping", vec![read(0, 0, 10), read(1, 5, 20)], vec![(1, 0, 20, 2)]),
            ("a gap", vec![read(0, 0, 10), read(1, 11, 20)], vec![(1, 0, 10, 1), (1, 11, 20, 1)]),
            ("backwards", vec![read(0, 10, 20), read(1, 0, 10)], vec![(1, 10, 20, 1), (1, 0, 10, 1)]),
            (
                // Inside the line's range but not going on from the last access.
                "back inside",
                vec![read(0, 0, 10), read(1, 10, 20), read(2, 3, 5)],
                vec![(1, 0, 20, 2), (1, 3, 5, 1)],
            ),
            (
                "threads and kinds apart",
                vec![
                    access(0, 1, Open, 0, 0),
                    access(1, 1, Map, 0, 99),
                    access(2, 1, Fault, 0, 10),
                    access(3, 2, Fault, 10, 20),
                    access(4, 1, Fault, 10, 20),
                ],
                vec![(1, 0, 0, 1), (1, 0, 99, 1), (1, 0, 20, 2), (2, 10, 20, 1)],
            ),
            ("a pause", vec![read(0, 0, 10), read(101, 10, 20)], vec![(1, 0, 10, 1), (1, 10, 20, 1)]),
        ];
        for (name, accesses, expected) in cases {
            assert_eq!(lines(&accesses), expected, "{name}");
        }
    }

    #[test]
    fn lines_are_told_in_the_order_of_their_first_access() {
        let mut coalescer = Coalescer::default();
        coalescer.push(&access(0, 1, AccessKind::Read, 0, 10));
        coalescer.push(&access(1, 2, AccessKind::Read, 0, 10));
        coalescer.push(&access(2, 2, AccessKind::Read, 50, 60));
        assert_eq!(coalescer.take(3 * MS), [], "thread 1 began first and may go on");
        coalescer.push(&access(80, 1, AccessKind::Read, 10, 20));
        let told = coalescer.take(110 * MS);
        assert_eq!(told, [], "thread 1 goes on; what thread 2 did later waits");
        let told = coalescer.take(200 * MS);
        let order: Vec<_> = told.iter().map(|line| (line.tid, line.range.start(), line.count)).collect();
        assert_eq!(order, [(1, 0, 2), (2, 0, 1), (2, 50, 1)]);
        assert_eq!(coalescer.waiting(), 0);
    }

    #[test]
    fn a_long_read_shows_while_it_runs() {
        let accesses: Vec<_> =
            (0..100).map(|n| access(n * 10, 1, AccessKind::Read, n * 10, n * 10 + 10)).collect();
        let ranges: Vec<_> = lines(&accesses).iter().map(|line| (line.1, line.2)).collect();
        assert_eq!(ranges, [(0, 510), (510, 1000)]);
    }
}
