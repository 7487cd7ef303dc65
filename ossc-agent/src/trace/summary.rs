//! What each file went through: how much of it was touched, how, by whom, in which order and when. Pure; every
//! access counts, also those whose line was left out of the document.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::order::{Order, Steps};
use super::ranges::Ranges;
use crate::base::{Access, AccessKind};

/// Counts the accesses of one file.
#[derive(Debug, Clone)]
pub(super) struct FileCounts {
    size: u64,
    touched: Ranges,
    mapped: Ranges,
    opens: u64,
    maps: u64,
    remaps: u64,
    unmaps: u64,
    reads: u64,
    read_bytes: u64,
    faults: u64,
    fault_bytes: u64,
    stalls: u64,
    stalled_ns: u64,
    first_ns: Option<u64>,
    last_ns: u64,
    pids: BTreeSet<u32>,
    tids: BTreeSet<u32>,
    steps: BTreeMap<u32, Steps>,
    /// Of all threads together, as they came.
    together: Steps,
}

/// What is told of one file. Its fields are those of a `file_summary` record (docs/trace-format.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct FileSummary {
    /// Bytes of the file.
    pub(super) size: u64,
    /// Different bytes that were read or faulted in.
    pub(super) touched: u64,
    /// Touched ranges were rounded outwards to multiples of this; 1 = exact.
    pub(super) touched_grain: u64,
    /// Different bytes that were mapped.
    pub(super) mapped: u64,
    pub(super) opens: u64,
    pub(super) maps: u64,
    pub(super) remaps: u64,
    pub(super) unmaps: u64,
    pub(super) reads: u64,
    /// Bytes the read calls asked for, the same ones as often as they did.
    pub(super) read_bytes: u64,
    pub(super) faults: u64,
    /// Bytes the faults brought into the readers' mappings.
    pub(super) fault_bytes: u64,
    /// Calls that asked a gate, and how long they waited for its answer together.
    pub(super) stalls: u64,
    pub(super) stalled_ns: u64,
    #[serde(flatten)]
    pub(super) order: Order,
    /// Whether that order shows only when all threads are taken together.
    pub(super) across_threads: bool,
    /// Stretches read or faulted without a jump.
    pub(super) runs: u64,
    pub(super) processes: usize,
    pub(super) threads: usize,
    /// Nanoseconds since the start of the trace; absent when nobody came.
    pub(super) first_ns: Option<u64>,
    pub(super) last_ns: Option<u64>,
}

impl FileCounts {
    pub(super) fn new(size: u64) -> Self {
        Self {
            size,
            touched: Ranges::new(),
            mapped: Ranges::new(),
            opens: 0,
            maps: 0,
            remaps: 0,
            unmaps: 0,
            reads: 0,
            read_bytes: 0,
            faults: 0,
            fault_bytes: 0,
            stalls: 0,
            stalled_ns: 0,
            first_ns: None,
            last_ns: 0,
            pids: BTreeSet::new(),
            tids: BTreeSet::new(),
            steps: BTreeMap::new(),
            together: Steps::default(),
        }
    }

    /// Counts an access whose range lies in the file.
    pub(super) fn count(&mut self, access: &Access) {
        let bytes = access.range.len();
        match access.kind {
            AccessKind::Open => self.opens += 1,
            AccessKind::Map => {
                self.maps += 1;
                self.mapped.insert(access.range);
            }
            AccessKind::Remap => {
                self.remaps += 1;
                self.mapped.insert(access.range);
            }
            AccessKind::Unmap => self.unmaps += 1,
            AccessKind::Read => {
                self.reads += 1;
                self.read_bytes = self.read_bytes.saturating_add(bytes);
            }
            AccessKind::Fault => {
                self.faults += 1;
                self.fault_bytes = self.fault_bytes.saturating_add(bytes);
            }
        }
        if matches!(access.kind, AccessKind::Read | AccessKind::Fault) {
            self.touched.insert(access.range);
            self.steps.entry(access.tid).or_default().step(access.kind, access.range);
            self.together.step(access.kind, access.range);
        }
        self.first_ns.get_or_insert(access.at_ns);
        self.last_ns = self.last_ns.max(access.at_ns);
        self.pids.insert(access.pid);
        self.tids.insert(access.tid);
    }

    /// Counts a call that asked a gate.
    pub(super) fn stall(&mut self, duration_ns: u64) {
        self.stalls += 1;
        self.stalled_ns = self.stalled_ns.saturating_add(duration_ns);
    }

    pub(super) fn summary(&self) -> FileSummary {
        let mut steps = Steps::default();
        self.steps.values().for_each(|thread| steps.add(thread));
        let each = steps.order(self.steps.len() as u64);
        let together = self.together.order(1);
        // Threads that take the next piece from a common queue are random each and sequential together.
        let across_threads = each == Order::Random && together != Order::Random;
        FileSummary {
            size: self.size,
            touched: self.touched.total().min(self.size),
            touched_grain: self.touched.grain(),
            mapped: self.mapped.total().min(self.size),
            opens: self.opens,
            maps: self.maps,
            remaps: self.remaps,
            unmaps: self.unmaps,
            reads: self.reads,
            read_bytes: self.read_bytes,
            faults: self.faults,
            fault_bytes: self.fault_bytes,
            stalls: self.stalls,
            stalled_ns: self.stalled_ns,
            order: if across_threads { together } else { each },
            across_threads,
            runs: if across_threads { self.together.runs() } else { steps.runs() },
            processes: self.pids.len(),
            threads: self.tids.len(),
            first_ns: self.first_ns,
            last_ns: self.first_ns.map(|_| self.last_ns),
        }
    }
}

/// All there is to tell at the end.
#[derive(Debug, Clone)]
pub(super) struct Summary {
    /// From the start of the probes to their end.
    pub(super) duration_ns: u64,
    /// In the order of the traced files.
    pub(super) files: Vec<FileSummary>,
    /// Processes that touched anything.
    pub(super) processes: usize,
    /// Threads that did.
    pub(super) threads: usize,
    /// Accesses that were seen.
    pub(super) accesses: u64,
    /// Accesses that were lost for want of room in the kernel's ring buffer.
    pub(super) dropped: u64,
    /// Accesses that are counted but in no line, because lines were not written as fast as they came.
    pub(super) accesses_left_out: u64,
    /// What this kernel does not show, a sentence each.
    pub(super) blind_spots: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ByteRange, FileId};

    fn access(tid: u32, kind: AccessKind, start: u64, end: u64, at_ns: u64) -> Access {
        Access { file: FileId(0), range: ByteRange::new(start, end), kind, pid: tid / 10, tid, at_ns }
    }

    #[test]
    fn counts_what_a_file_went_through() {
        use AccessKind::{Fault, Map, Open, Read, Remap, Unmap};
        let mut counts = FileCounts::new(1000);
        for access in [
            access(10, Open, 0, 0, 5),
            access(10, Map, 0, 1000, 6),
            access(10, Read, 0, 100, 7),
            access(10, Read, 0, 100, 8),
            access(10, Read, 100, 200, 8),
            access(11, Fault, 150, 300, 9),
            access(11, Remap, 0, 1000, 10),
            access(11, Unmap, 0, 1000, 11),
            access(21, Open, 0, 0, 40),
        ] {
            counts.count(&access);
        }
        [3, 4].iter().for_each(|&ns| counts.stall(ns));
        let summary = counts.summary();
        assert_eq!(
            summary,
            FileSummary {
                size: 1000,
                touched: 300,
                touched_grain: 1,
                mapped: 1000,
                opens: 2,
                maps: 1,
                remaps: 1,
                unmaps: 1,
                reads: 3,
                read_bytes: 300,
                faults: 1,
                fault_bytes: 150,
                stalls: 2,
                stalled_ns: 7,
                order: Order::Sequential,
                across_threads: false,
                runs: 2,
                processes: 2,
                threads: 3,
                first_ns: Some(5),
                last_ns: Some(40),
            }
        );
    }

    #[test]
    fn a_file_nobody_touched_has_no_times() {
        let summary = FileCounts::new(7).summary();
        assert_eq!((summary.first_ns, summary.last_ns, summary.order), (None, None, Order::None));
    }

    #[test]
    fn a_common_queue_of_pieces_is_sequential_across_threads() {
        let mut counts = FileCounts::new(1 << 40);
        let mut random = fastrand::Rng::with_seed(5);
        for piece in 0..400_u64 {
            counts.count(&access(
                random.u32(10..14),
                AccessKind::Read,
                piece << 20,
                (piece + 1) << 20,
                piece,
            ));
        }
        let summary = counts.summary();
        assert_eq!((summary.order, summary.across_threads, summary.runs), (Order::Sequential, true, 1));
    }
}
