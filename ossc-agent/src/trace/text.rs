//! The trace for people: a line an access as it happens, and a summary per file at the end. Its words may change
//! at any time; programs read the JSON. The summary is also what standard output gets when the document, of
//! whatever format, goes to a file.

use std::io::{self, Write};

use super::coalesce::Line;
use super::document::{Document, Scene, word};
use super::order::Order;
use super::summary::{FileSummary, Summary};
use super::threads::Thread;
use crate::base::{AccessKind, Bytes};

const NS_PER_MS: u64 = 1_000_000;

/// Lines and a summary.
#[derive(Debug)]
pub(super) struct Text;

impl Document for Text {
    fn begin(&mut self, scene: &Scene, out: &mut dyn Write) -> io::Result<()> {
        let total = scene.files.iter().map(|file| file.size).fold(0, u64::saturating_add);
        writeln!(out, "# {} files, {}", scene.files.len(), Bytes(total))?;
        writeln!(
            out,
            "#   SECONDS  PROCESS/THREAD            WHAT   FILE                              BYTES           FROM..TO"
        )
    }

    fn thread(&mut self, _thread: &Thread, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn line(&mut self, scene: &Scene, line: &Line, out: &mut dyn Write) -> io::Result<()> {
        let process = scene.threads.get(&line.tid).map_or("", |thread| thread.process.as_str());
        let reader = format!("{process} {}/{}", line.pid, line.tid);
        let name = scene.name(line.file);
        write!(out, "{:>11}  {reader:<24}  {:<5}  {name:<28}", seconds(line.first_ns), word(line.kind))?;
        // The programs do not tell what an open is for, so it has no range.
        if line.kind != AccessKind::Open {
            let length = Bytes(line.range.len()).to_string();
            write!(out, "  {length:>9}  {:>15}..{}", line.range.start(), line.range.end())?;
        }
        if line.count > 1 {
            let ms = (line.last_ns - line.first_ns) / NS_PER_MS;
            write!(out, "  {} times in {ms} ms", line.count)?;
        }
        writeln!(out)
    }

    fn end(&mut self, scene: &Scene, summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
        write_summary(scene, summary, out)
    }
}

/// The summary alone: what standard output shows when the document goes elsewhere.
pub(super) fn write_summary(scene: &Scene, summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
    let came = |file: &&FileSummary| file.first_ns.is_some();
    let sum = |of: fn(&FileSummary) -> u64| summary.files.iter().map(of).fold(0, u64::saturating_add);
    let (touched, size) = (sum(|file| file.touched), sum(|file| file.size));
    writeln!(
        out,
        "\nIn {} s, {} and {} made {} to {} of {}: {} of {} ({}) touched.",
        seconds(summary.duration_ns),
        counted(summary.threads as u64, "thread", "threads"),
        counted(summary.processes as u64, "process", "processes"),
        counted(summary.accesses, "access", "accesses"),
        summary.files.iter().filter(came).count(),
        counted(summary.files.len() as u64, "file", "files"),
        Bytes(touched),
        Bytes(size),
        share(touched, size),
    )?;
    let (stalls, stalled_ns) = (sum(|file| file.stalls), sum(|file| file.stalled_ns));
    if stalls > 0 {
        writeln!(
            out,
            "Held by a gate for {} s, in {}.",
            seconds(stalled_ns),
            counted(stalls, "call", "calls")
        )?;
    }
    for (name, file) in scene.names.iter().zip(&summary.files).filter(|(_, file)| came(file)) {
        write_file(name, file, out)?;
    }
    let untouched: Vec<_> = scene.names.iter().zip(&summary.files).filter(|(_, file)| !came(file)).collect();
    if !untouched.is_empty() {
        writeln!(out, "\n{} nobody touched:", counted(untouched.len() as u64, "file", "files"))?;
        untouched.iter().try_for_each(|(name, file)| writeln!(out, "  {name}  {}", Bytes(file.size)))?;
    }
    write_gaps(summary, out)
}

fn write_file(name: &str, file: &FileSummary, out: &mut dyn Write) -> io::Result<()> {
    let FileSummary { first_ns, last_ns, .. } = file;
    writeln!(out, "\n{name}  {}", Bytes(file.size))?;
    let about = if file.touched_grain > 1 { "at most " } else { "" };
    writeln!(out, "  touched  {about}{} ({})", Bytes(file.touched), share(file.touched, file.size))?;
    let reads = counted(file.reads, "read call", "read calls");
    let faults = counted(file.faults, "page fault", "page faults");
    writeln!(
        out,
        "  by       {reads} for {}, {faults} for {}",
        Bytes(file.read_bytes),
        Bytes(file.fault_bytes)
    )?;
    let opens = counted(file.opens, "open", "opens");
    let maps = counted(file.maps, "mapping", "mappings");
    write!(out, "  through  {opens}, {maps} of {}", Bytes(file.mapped))?;
    for (count, done) in [(file.remaps, "changed"), (file.unmaps, "unmapped")] {
        if count > 0 {
            write!(out, ", {done} {}", counted(count, "time", "times"))?;
        }
    }
    writeln!(out)?;
    let threads = counted(file.threads as u64, "thread", "threads");
    let processes = counted(file.processes as u64, "process", "processes");
    writeln!(out, "  from     {threads} of {processes}")?;
    writeln!(out, "  order    {}", order(file))?;
    if file.stalls > 0 {
        let calls = counted(file.stalls, "call", "calls");
        writeln!(out, "  held     by a gate for {} s, in {calls}", seconds(file.stalled_ns))?;
    }
    let (first, last) = (first_ns.unwrap_or(0), last_ns.unwrap_or(0));
    writeln!(out, "  when     from {} s to {} s", seconds(first), seconds(last))
}

/// The order as people say it.
pub(super) fn order(file: &FileSummary) -> String {
    let across = if file.across_threads { " across threads" } else { "" };
    let runs = counted(file.runs, "run", "runs");
    match file.order {
        Order::None => "nothing read or faulted in".to_owned(),
        Order::Sequential => format!("sequential{across}, {runs}"),
        Order::Random => {
            let bytes = file.read_bytes.saturating_add(file.fault_bytes);
            format!("random, {runs} of {} on average", Bytes(bytes.checked_div(file.runs).unwrap_or(0)))
        }
        Order::Strided { stride } => {
            let length = Bytes(u64::try_from(stride.unsigned_abs()).unwrap_or(u64::MAX));
            let back = if stride < 0 { " backwards" } else { "" };
            format!("strides of {length}{back}{across}, {runs}")
        }
    }
}

/// What is not in the trace and why.
fn write_gaps(summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
    if summary.dropped > 0 {
        let lost = counted(summary.dropped, "record was", "records were");
        writeln!(out, "\n{lost} lost: accesses came faster than they could be taken.")?;
    }
    if summary.accesses_left_out > 0 {
        let lines = counted(summary.accesses_left_out, "access is", "accesses are");
        writeln!(out, "\n{lines} counted but in no line: the output was not taken fast enough.")?;
    }
    if !summary.blind_spots.is_empty() {
        writeln!(out, "\nThis machine does not show:")?;
        summary.blind_spots.iter().try_for_each(|spot| writeln!(out, "  {spot}"))?;
    }
    Ok(())
}

/// Nanoseconds as seconds, to the microsecond.
pub(super) fn seconds(ns: u64) -> String {
    format!("{}.{:06}", ns / 1_000_000_000, ns / 1000 % 1_000_000)
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A share in percent with one digit behind the point.
pub(super) fn share(part: u64, whole: u64) -> String {
    let tenths = u128::from(part) * 1000 / u128::from(whole.max(1));
    format!("{}.{} %", tenths / 10, tenths % 10)
}
