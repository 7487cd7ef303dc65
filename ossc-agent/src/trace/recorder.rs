//! Takes the accesses as the probes see them: clips each to its file, counts it, and merges it into a line.
//! The probes' thread calls [`Recorder::record`], the loop takes the lines; a lock around it is the caller's.
//!
//! Lines that nobody takes in time are bounded in number: beyond that they are left out and counted, so that
//! a slow reader of the output costs detail, never memory or the summary.

use std::collections::BTreeSet;

use super::coalesce::{Coalescer, Line};
use super::files::Traced;
use super::summary::{FileCounts, Summary};
use super::threads::{Thread, Threads};
use crate::base::Access;
use crate::bpf::Stall;

/// Lines that wait to be written: some 100 MB, ten seconds of a machine that does nothing but random reads.
const WAITING_MAX: usize = 1 << 20;

/// Everything known of the accesses so far.
#[derive(Debug)]
pub(super) struct Recorder {
    /// `CLOCK_MONOTONIC` when the trace began, if it has.
    start_ns: Option<u64>,
    files: Vec<(u64, FileCounts)>,
    threads: Threads,
    /// Threads since the last batch.
    new_threads: Vec<Thread>,
    coalescer: Coalescer,
    look_up: fn(u32, u32) -> Thread,
    accesses: u64,
    left_out: u64,
}

/// What has become known since the last batch.
#[derive(Debug)]
pub(super) struct Batch {
    /// Who is new.
    pub(super) threads: Vec<Thread>,
    /// In the order of their first access.
    pub(super) lines: Vec<Line>,
}

impl Recorder {
    /// For these files; `look_up` tells the names of a process and thread.
    pub(super) fn new(files: &[Traced], look_up: fn(u32, u32) -> Thread) -> Self {
        Self {
            start_ns: None,
            files: files.iter().map(|file| (file.size, FileCounts::new(file.size))).collect(),
            threads: Threads::new(),
            new_threads: Vec::new(),
            coalescer: Coalescer::default(),
            look_up,
            accesses: 0,
            left_out: 0,
        }
    }

    /// Takes an access as the probes tell it.
    pub(super) fn record(&mut self, access: Access) {
        let Some(start_ns) = self.start_ns else { return };
        let Some((size, counts)) = self.files.get_mut(access.file.index()) else { return };
        let at_ns = access.at_ns.saturating_sub(start_ns);
        let access = Access { range: access.range.clip(*size), at_ns, ..access };
        self.accesses += 1;
        counts.count(&access);
        let new_threads = &mut self.new_threads;
        self.threads.entry(access.tid).or_insert_with(|| {
            let thread = (self.look_up)(access.pid, access.tid);
            new_threads.push(thread.clone());
            thread
        });
        if self.coalescer.waiting() < WAITING_MAX {
            self.coalescer.push(&access);
        } else {
            self.left_out += 1;
        }
    }

    /// Takes a call that was held.
    pub(super) fn stalled(&mut self, stall: &Stall) {
        if self.start_ns.is_some_and(|start_ns| stall.at_ns >= start_ns)
            && let Some((_, counts)) = self.files.get_mut(stall.file.index())
        {
            counts.stall(stall.duration_ns);
        }
    }

    /// What can be told at this `CLOCK_MONOTONIC` time.
    pub(super) fn take(&mut self, now_ns: u64) -> Batch {
        let lines = self.coalescer.take(now_ns.saturating_sub(self.start_ns.unwrap_or(now_ns)));
        Batch { threads: std::mem::take(&mut self.new_threads), lines }
    }

    /// All that has not been told, after the last access.
    pub(super) fn finish(&mut self) -> Batch {
        let lines = self.coalescer.finish();
        Batch { threads: std::mem::take(&mut self.new_threads), lines }
    }

    /// The trace begins at this `CLOCK_MONOTONIC` time; what came before is not taken.
    pub(super) fn begin(&mut self, start_ns: u64) {
        self.start_ns = Some(start_ns);
    }

    /// The counts so far; the probes know the rest.
    pub(super) fn summary(&self) -> Summary {
        let pids: BTreeSet<_> = self.threads.values().map(|thread| thread.pid).collect();
        Summary {
            duration_ns: 0,
            files: self.files.iter().map(|(_, counts)| counts.summary()).collect(),
            processes: pids.len(),
            threads: self.threads.len(),
            accesses: self.accesses,
            dropped: 0,
            accesses_left_out: self.left_out,
            blind_spots: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{AccessKind, ByteRange, FileId};

    fn nobody(pid: u32, tid: u32) -> Thread {
        Thread { pid, tid, process: String::new(), name: String::new() }
    }

    #[test]
    fn accesses_are_clipped_counted_and_told() {
        let files = [Traced { path: "a".into(), size: 100 }];
        let mut recorder = Recorder::new(&files, nobody);
        recorder.begin(1000);
        let access = |file, start, end, at_ns| Access {
            file: FileId(file),
            range: ByteRange::new(start, end),
            kind: AccessKind::Read,
            pid: 7,
            tid: 8,
            at_ns,
        };
        recorder.record(access(0, 0, 64, 1010));
        recorder.record(access(0, 64, 128, 1020));
        // At the end of the file, where a reader learns that it is the end.
        recorder.record(access(0, 128, 192, 1030));
        recorder.record(access(9, 0, 1, 1040));
        let batch = recorder.finish();
        let [line] = batch.lines[..] else { panic!("{batch:?}") };
        assert_eq!((line.range, line.count), (ByteRange::new(0, 100), 3));
        assert_eq!((line.first_ns, line.last_ns), (10, 30));
        assert_eq!(batch.threads, [nobody(7, 8)]);
        let counts = recorder.summary();
        assert_eq!((counts.accesses, counts.processes, counts.threads), (3, 1, 1));
        assert_eq!((counts.files[0].touched, counts.files[0].reads), (100, 3));
        assert_eq!(recorder.take(2000).lines, []);
    }
}
