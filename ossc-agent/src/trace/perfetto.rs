//! The trace as Chrome trace events, which ui.perfetto.dev and chrome://tracing open. The format is that of
//! "Trace Event Format" (Google, docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU).
//!
//! Slices of one track must not overlap, but lines of one thread may, where it goes through two files at a time:
//! a thread has as many tracks as it needs. Each process has a counter of the bytes it read and faulted in.

use std::collections::HashMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::coalesce::Line;
use super::document::{Document, Scene, word};
use super::summary::Summary;
use super::threads::Thread;
use crate::base::AccessKind;

/// Further tracks of a thread have its id plus a multiple of this: one more than any thread's id (`PID_MAX_LIMIT`,
/// include/linux/threads.h).
const FURTHER_TRACK: u64 = 1 << 22;

/// Trace events, each on a line.
#[derive(Debug, Default)]
pub(super) struct Perfetto {
    /// Whether an event has been written, and the next one needs a comma.
    begun: bool,
    /// When each track of a thread is free again.
    tracks: HashMap<u32, Vec<u64>>,
    /// Bytes read and faulted in by each process.
    bytes: HashMap<u32, (u64, u64)>,
}

impl Perfetto {
    fn write(&mut self, event: &Value, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(if self.begun { b",\n" } else { b"" })?;
        self.begun = true;
        serde_json::to_writer(out, event)?;
        Ok(())
    }

    /// The first track of the thread that is free from `first_ns`; whether it is a new one.
    fn track(&mut self, line: &Line) -> (u64, bool) {
        let tracks = self.tracks.entry(line.tid).or_default();
        let free = tracks.iter().position(|&until| until <= line.first_ns);
        let (place, is_new) = free.map_or((tracks.len(), true), |place| (place, false));
        let until = line.last_ns.max(line.first_ns + 1);
        match tracks.get_mut(place) {
            Some(track) => *track = until,
            None => tracks.push(until),
        }
        (u64::from(line.tid) + FURTHER_TRACK * place as u64, is_new)
    }
}

impl Document for Perfetto {
    fn begin(&mut self, scene: &Scene, out: &mut dyn Write) -> io::Result<()> {
        let about = json!({ "started": scene.started, "clock": "seconds since the start of the trace" });
        writeln!(out, "{{\"displayTimeUnit\":\"ms\",\"otherData\":{about},\"traceEvents\":[")
    }

    fn thread(&mut self, thread: &Thread, out: &mut dyn Write) -> io::Result<()> {
        let Thread { pid, process, .. } = thread;
        if !self.bytes.contains_key(pid) {
            self.bytes.insert(*pid, (0, 0));
            let name = json!({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": process}});
            self.write(&name, out)?;
        }
        Ok(())
    }

    fn line(&mut self, scene: &Scene, line: &Line, out: &mut dyn Write) -> io::Result<()> {
        let (track, is_new) = self.track(line);
        if is_new {
            let name = scene.threads.get(&line.tid).map_or("", |thread| thread.name.as_str());
            let name = format!("{name} {}", line.tid);
            let event = json!({"ph": "M", "name": "thread_name", "pid": line.pid, "tid": track, "args": {"name": name}});
            self.write(&event, out)?;
        }
        let slice = json!({
            "ph": "X",
            "name": scene.name(line.file),
            "cat": word(line.kind),
            "pid": line.pid,
            "tid": track,
            "ts": microseconds(line.first_ns),
            // One of no length would be drawn as a mere arrow.
            "dur": microseconds(line.last_ns.saturating_sub(line.first_ns).max(1)),
            "args": {
                "kind": word(line.kind),
                "start": line.range.start(),
                "end": line.range.end(),
                "bytes": line.range.len(),
                "count": line.count,
            },
        });
        self.write(&slice, out)?;
        let (read, faulted) = self.bytes.entry(line.pid).or_default();
        match line.kind {
            AccessKind::Read => *read = read.saturating_add(line.range.len()),
            AccessKind::Fault => *faulted = faulted.saturating_add(line.range.len()),
            AccessKind::Open | AccessKind::Map | AccessKind::Remap | AccessKind::Unmap => return Ok(()),
        }
        let args = json!({"read": read, "faulted in": faulted});
        let ts = microseconds(line.last_ns);
        self.write(&json!({"ph": "C", "name": "bytes", "pid": line.pid, "ts": ts, "args": args}), out)
    }

    fn end(&mut self, _scene: &Scene, summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
        let lost = json!({"dropped": summary.dropped, "accesses_left_out": summary.accesses_left_out});
        writeln!(out, "\n],\"metadata\":{lost}}}")
    }
}

/// Nanoseconds as the microseconds with a fraction that the format counts in.
#[expect(clippy::cast_precision_loss, reason = "exact to the nanosecond for three months")]
fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Access, ByteRange, FileId};
    use crate::trace::coalesce::Coalescer;
    use crate::trace::files::Traced;

    #[test]
    fn it_is_json_with_named_tracks_on_which_no_slices_overlap() {
        let files = ["a", "b"].map(|path| Traced { path: path.into(), size: 1 << 20 }).to_vec();
        let mut scene = Scene::new(files, "now".into(), 0);
        let thread = Thread { pid: 7, tid: 8, process: "cp".into(), name: "cp".into() };
        scene.threads.insert(8, thread.clone());
        let mut coalescer = Coalescer::default();
        // One thread goes through two files by turns: two lines at a time.
        for at in 0..10_u64 {
            for file in 0..2 {
                let range = ByteRange::new(at * 10, at * 10 + 10);
                let (kind, at_ns) = (AccessKind::Read, at * 1000 + u64::from(file));
                coalescer.push(&Access { file: FileId(file), range, kind, pid: 7, tid: 8, at_ns });
            }
        }
        let (mut document, mut out) = (Perfetto::default(), Vec::new());
        document.begin(&scene, &mut out).unwrap();
        document.thread(&thread, &mut out).unwrap();
        coalescer.finish().iter().for_each(|line| document.line(&scene, line, &mut out).unwrap());
        let summary = crate::trace::recorder::Recorder::new(&scene.files, |_, _| unreachable!()).summary();
        document.end(&scene, &summary, &mut out).unwrap();

        let trace: Value = serde_json::from_slice(&out).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let of = |phase: &str| events.iter().filter(|event| event["ph"] == phase).collect::<Vec<_>>();
        assert_eq!(of("M").len(), 3, "a process and two tracks have names");
        let slices: Vec<_> =
            of("X").iter().map(|slice| (slice["name"].clone(), slice["tid"].clone())).collect();
        assert_eq!(slices, [(json!("a"), json!(8)), (json!("b"), json!(8 + FURTHER_TRACK))]);
        assert_eq!(of("X")[0]["dur"], json!(9.0));
        assert_eq!(of("C").last().unwrap()["args"]["read"], json!(200));
    }
}
