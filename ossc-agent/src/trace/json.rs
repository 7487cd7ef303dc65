//! The trace for programs: JSON lines, as docs/trace-format.md describes them. The only place that knows this
//! format; a change that is not an added field or record type raises [`VERSION`].

use std::io::{self, Write};

use serde::Serialize;

use super::coalesce::Line;
use super::document::{Document, Scene, word};
use super::summary::{FileSummary, Summary};
use super::threads::Thread;

/// Version of the format.
const VERSION: u32 = 1;

/// Each variant is a record type; readers skip those they do not know.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Record<'a> {
    Trace { format: &'static str, version: u32, agent: &'static str, started: &'a str, monotonic_ns: u64 },
    File { file: usize, path: &'a str, size: u64 },
    Thread { pid: u32, tid: u32, process: &'a str, name: &'a str },
    Access(AccessRecord),
    FileSummary(FileSummaryRecord<'a>),
    Summary(SummaryRecord<'a>),
}

#[derive(Serialize)]
struct AccessRecord {
    file: u32,
    kind: &'static str,
    pid: u32,
    tid: u32,
    first_ns: u64,
    last_ns: u64,
    start: u64,
    end: u64,
    count: u64,
}

#[derive(Serialize)]
struct FileSummaryRecord<'a> {
    file: usize,
    #[serde(flatten)]
    summary: &'a FileSummary,
}

#[derive(Serialize)]
struct SummaryRecord<'a> {
    duration_ns: u64,
    processes: usize,
    threads: usize,
    accesses: u64,
    dropped: u64,
    accesses_left_out: u64,
    blind_spots: &'a [String],
}

/// JSON lines.
#[derive(Debug)]
pub(super) struct Json;

impl Document for Json {
    fn begin(&mut self, scene: &Scene, out: &mut dyn Write) -> io::Result<()> {
        let header = Record::Trace {
            format: "ossc-trace",
            version: VERSION,
            agent: env!("CARGO_PKG_VERSION"),
            started: &scene.started,
            monotonic_ns: scene.start_ns,
        };
        write(&header, out)?;
        for (file, traced) in scene.files.iter().enumerate() {
            write(&Record::File { file, path: &traced.path.to_string_lossy(), size: traced.size }, out)?;
        }
        Ok(())
    }

    fn thread(&mut self, thread: &Thread, out: &mut dyn Write) -> io::Result<()> {
        let Thread { pid, tid, process, name } = thread;
        write(&Record::Thread { pid: *pid, tid: *tid, process, name }, out)
    }

    fn line(&mut self, _scene: &Scene, line: &Line, out: &mut dyn Write) -> io::Result<()> {
        let access = AccessRecord {
            file: line.file.0,
            kind: word(line.kind),
            pid: line.pid,
            tid: line.tid,
            first_ns: line.first_ns,
            last_ns: line.last_ns,
            start: line.range.start(),
            end: line.range.end(),
            count: line.count,
        };
        write(&Record::Access(access), out)
    }

    fn end(&mut self, _scene: &Scene, summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
        for (file, of_file) in summary.files.iter().enumerate() {
            write(&Record::FileSummary(FileSummaryRecord { file, summary: of_file }), out)?;
        }
        let total = SummaryRecord {
            duration_ns: summary.duration_ns,
            processes: summary.processes,
            threads: summary.threads,
            accesses: summary.accesses,
            dropped: summary.dropped,
            accesses_left_out: summary.accesses_left_out,
            blind_spots: &summary.blind_spots,
        };
        write(&Record::Summary(total), out)
    }
}

fn write(record: &Record<'_>, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, record)?;
    out.write_all(b"\n")
}
